"""Blender training resumes: only missing training examples are recomputed, and the weights are the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from one_process import without_ray
from small_runs import Run
from tiny_runs import TinyShop

from rayrec.pipeline import blender_fitting
from rayrec.pipeline.blender_fitting import DenoiseTrainingUsers, blender_fingerprint, fit_blenders, load_blender
from rayrec.pipeline.interaction_ingest import ingest
from rayrec.pipeline.item_model_fitting import fit_item_models
from rayrec.pipeline.llm_tuning import tune_llms
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support.stage_runner import WorkItem
from rayrec.storage import layout

pytestmark = pytest.mark.slow  # whole runs

SHARDS = 4


class DenoiseSeen(DenoiseTrainingUsers):
    """Writes a marker file for each work item."""

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        (Path(self._spec.scoring.context.storage.root) / f"seen-{item.shard}").touch()
        return super().__call__(item, table)


def blends(context: RunContext) -> dict[str, dict[str, object]]:
    """Fit each rerank variant's weights."""
    data = ingest(context)
    named = fit_blenders(context, data, tune_llms(context, data, fit_item_models(context, data)))
    return {variant: load_blender(context, fingerprint).to_dict() for variant, fingerprint in named.items()}


def example_files(context: RunContext) -> dict[int, Path]:
    """The file of each shard at the single cutoff."""
    folder = layout.training_examples_folder(context.work_folder, context.record.run_id)
    return {
        shard: next((Path(context.storage.root) / folder).glob(f"*/shard={shard:04d}.arrow")) for shard in range(SHARDS)
    }


def rows(file: Path) -> int:
    with pa.ipc.open_file(file) as reader:
        return reader.read_all().num_rows


@pytest.mark.parametrize("overrides", [(), ("blend.max_users=1",)], ids=["everybody", "hardly anybody"])
def test_existing_training_examples_are_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    root = tmp_path / "out"
    context = TinyShop.make(tmp_path).context(root, f"data.shards={SHARDS}", *overrides)
    monkeypatch.setattr(blender_fitting, "DenoiseTrainingUsers", DenoiseSeen)
    with without_ray():
        whole = blends(context)
        files = example_files(context)
        taught = {shard: rows(file) for shard, file in files.items()}
        assert (min(taught.values()) == 0) == bool(overrides), "a shard in which nobody teaches has a file too"

        shutil.rmtree(root / "models" / "blend")
        for shard in range(SHARDS):
            (root / f"seen-{shard}").unlink(missing_ok=True)
        for shard in (1, 3):
            files[shard].unlink()
        assert blends(context) == whole
    assert sorted(path.name for path in root.glob("seen-*")) == ["seen-1", "seen-3"]
    assert {shard: rows(file) for shard, file in files.items()} == taught


def test_a_blender_does_not_depend_on_the_arms_share_of_users(first_run: Run, tmp_path: Path) -> None:
    workspace, _ = first_run
    root = workspace.prepared(tmp_path / "out")
    whole = blends(workspace.context(root))
    shutil.rmtree(root / "models" / "blend")
    within = "arms.layer={salt: another, low: 0, high: 0.5, default_arm: control}"
    few = workspace.context(root, within, "arms.assignment=split", "arms.variants.llm.share=0.1")
    assert blends(few) == whole


def test_a_blender_fingerprint_covers_its_training_inputs(first_run: Run, tmp_path: Path) -> None:
    workspace, _ = first_run
    root = workspace.prepared(tmp_path / "out")

    def named(*overrides: str) -> str:
        context = workspace.context(root, *overrides)
        return blender_fingerprint(context, context.arms.variants("rerank")[0], ())

    different = [(), ("instruction.default_request=Something else",), ("blend.min_events=1",), ("blend.l2=1",)]
    assert len({named(*overrides) for overrides in different}) == len(different)
    assert named("arms.assignment=split", "arms.salt=another") == named("slate.size=9") == named(), "they teach nothing"
