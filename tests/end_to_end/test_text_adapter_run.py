"""A run whose text reranker is tuned: its adapter is made before the blend's cutoffs, named, used and reused."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_checkpoints import build
from small_runs import Workspace

from rayrec import read_slates
from rayrec.data.synthetic_dataset import make_synthetic_dataset
from rayrec.pipeline import daily_run
from rayrec.pipeline.item_model_fitting import cutoffs
from rayrec.reranking.text import tuned_adapter
from rayrec.storage import layout

ARMS = (
    "arms.variants={tuned: {rerank: {method: pointwise, checkpoint: %s, adapter: tuned, depth: 10, "
    "engine: transformers, settings: {events: 2, item_tokens: 16, prompt_tokens: 400}}}}"
)
SMALL = ("text_tuning.max_users=6", "blend.max_users=10", "blend.cutoffs=1", "denoise={method: none}")


@pytest.mark.usefixtures("local_ray")
def test_a_tuned_text_reranker_runs_in_the_whole_job(tmp_path: Path) -> None:
    workspace = Workspace(make_synthetic_dataset(tmp_path, seed=3, users=60), tmp_path / "out")
    result = daily_run.run(workspace.context(workspace.root, ARMS % build(tmp_path, "qwen3"), *SMALL))
    named = result.manifest.models["adapter of tuned"]
    storage = result.context.storage
    card = tuned_adapter.read_card(storage, layout.model_folder(layout.TEXT_ADAPTER_KIND, named))
    assert 0 < card["users"] <= 6
    assert card["now"] < card["until"] == cutoffs(result.context)[0]
    users = read_slates(str(workspace.root), workspace.dataset.date, "tuned")["user_id"].unique()
    assert result.manifest.engine == {"transformers: pointwise": len(users)}
