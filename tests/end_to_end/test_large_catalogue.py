"""The README's own config on a shop with more items than EASE can be solved for densely."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rayrec
from benchmarks.generated import make
from rayrec.config import load
from rayrec.pipeline import daily_run, dry_run
from rayrec.pipeline.run_context import RunContext
from rayrec.retrieval import item_model_store
from rayrec.retrieval.retriever import MAX_DENSE_ITEMS

README = Path(__file__).parents[2] / "README.md"
VARIANTS = "control: {denoise: {method: none}, rerank: {method: none}}, denoised: {rerank: {method: none}}"
WITHOUT_LLM = f"arms.variants={{{VARIANTS}}}"


@pytest.mark.usefixtures("local_ray")
def test_the_readmes_config_runs_on_any_catalogue(tmp_path: Path) -> None:
    made = make(tmp_path / "data", users=3_000, events=60, items=28_000)
    written = re.search(r"```yaml\n(name: mine\n.*?)```", README.read_text(encoding="utf8"), re.DOTALL)
    assert written is not None
    config = tmp_path / "mine.yaml"
    config.write_text(written[1], encoding="utf8")
    places = [f"data.root={made.root}", f"output.root={tmp_path / 'out'}"]
    context = RunContext(load(config, [*places, WITHOUT_LLM]), made.date)
    assert "ease is solved densely for up to 20,000 items" in dry_run.describe(context)
    result = daily_run.run(context)
    summaries = item_model_store.summaries(context.storage, result.models.item_model)
    solver, active = re.search(r"(\w+) solver, ([\d,]+) items", " ".join(summaries.values())).groups()  # type: ignore[union-attr]
    assert solver == "sparse"
    assert int(active.replace(",", "")) > MAX_DENSE_ITEMS
    slates = rayrec.read_slates(str(tmp_path / "out"), made.date, arm="control")
    assert len(slates["user_id"].unique()) == 3_000
    assert {"ease", "user_knn_7d"} <= set(slates["source"].to_pylist())
