"""The smallest whole run: a synthetic dataset of few users, two retrievers, no LLM, one earlier cutoff.

On a running Ray cluster it takes a second or two, so that a harness can afford hundreds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rayrec import read_slates
from rayrec.config import load
from rayrec.data.synthetic_dataset import SyntheticDataset, make_synthetic_dataset
from rayrec.pipeline.run_context import RunContext
from rayrec.storage import Storage

CONFIG = Path(__file__).resolve().parents[2] / "jobs" / "demo.yaml"
SETTINGS = (
    "rerank.method=none",
    "blend.cutoffs=1",
    'retrieval.sources={"ease": {}, "popularity": {}}',
    "resources.fit_num_cpus=1",
    "data.window_days=20",
    "data.shards=2",
)


@dataclass(frozen=True)
class TinyShop:
    dataset: SyntheticDataset

    @classmethod
    def make(cls, folder: Path, users: int = 40) -> TinyShop:
        return cls(make_synthetic_dataset(folder, seed=3, users=users))

    def overrides(self, output: Path | str, *more: str) -> list[str]:
        """What `--set` would be given."""
        return [f"data.root={self.dataset.data_root}", f"output.root={output}", *SETTINGS, *more]

    def context(self, output: Path | str, *more: str) -> RunContext:
        return RunContext(load(CONFIG, self.overrides(output, *more)), self.dataset.date)

    def published(self, output: Path | str) -> pa.Table:
        """The published rows, every file's digest checked."""
        return read_slates(output, self.dataset.date, verify=True)

    def copy_data(self, root: str) -> None:
        """Copy the input files to another storage."""
        source = Path(self.dataset.data_root)
        for file in source.rglob("*"):
            if file.is_file():
                Storage(root).write(file.relative_to(source).as_posix(), file.read_bytes())
