"""A run small enough for a test: a synthetic dataset of few users, a tiny LLM, everything else as in production."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rayrec.config import Config, load
from rayrec.data.synthetic_dataset import SyntheticDataset, make_synthetic_dataset
from rayrec.pipeline.daily_run import RunResult
from rayrec.pipeline.run_context import RunContext

CONFIG = Path(__file__).resolve().parents[2] / "jobs" / "demo.yaml"
SMALL = (
    "tuning.epochs=1",
    "tuning.layers=1",
    "tuning.width=32",
    "tuning.heads=1",
    "tuning.feedforward=64",
    "resources.tune_num_cpus=1",  # two threads only wait for each other in a model so small, for ever beside other work
    "blend.cutoffs=1",
)
USERS = 150
WITHOUT_LLM = "rerank.method=none"


@dataclass(frozen=True)
class Workspace:
    """A dataset, and the output root where a first run left its slates, models and histories."""

    dataset: SyntheticDataset
    root: Path

    def context(self, output: Path | str, *overrides: str) -> RunContext:
        return RunContext(self.config(output, *overrides), self.dataset.date)

    def config(self, output: Path | str, *overrides: str) -> Config:
        return load(CONFIG, self.overrides(output, *overrides))

    def overrides(self, output: Path | str, *more: str) -> list[str]:
        """What `--set` would be given."""
        return [f"data.root={self.dataset.data_root}", f"output.root={output}", *SMALL, *more]

    def prepared(self, output: Path) -> Path:
        """A new output root that has the models and histories of the first run, but no slates."""
        for part in ("work", "models"):
            shutil.copytree(self.root / part, output / part)
        return output


Run = tuple[Workspace, RunResult]
"""A run, and the workspace that it ran in."""


def make(folder: Path) -> Workspace:
    return Workspace(make_synthetic_dataset(folder, seed=3, users=USERS), folder / "out")


def differences(slates: pa.Table, others: pa.Table, *, but: tuple[str, ...] = ()) -> list[str]:
    """Where two runs have not the same rows: nothing, or a few lines that say what is wrong."""
    one, other = rows(slates, but=but), rows(others, but=but)
    if one.equals(other):
        return []
    if len(one) != len(other):
        return [f"{len(one)} rows, {len(other)} rows"]
    pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
    found = [f"{row} != {instead}" for row, instead in pairs if row != instead]
    return found[:5] or [f"{one.schema} != {other.schema}"]


def rows(slates: pa.Table, *, but: tuple[str, ...] = ()) -> pa.Table:
    """Slates in a fixed order, without some columns: what two runs must have in common."""
    ordered = slates.sort_by([("arm", "ascending"), ("user_id", "ascending"), ("rank", "ascending")])
    return ordered.drop_columns(list(but)).combine_chunks()
