"""A synthetic dataset, and the slates, models and histories of a run without an LLM over it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import typer
from click.testing import Result
from typer.testing import CliRunner

from rayrec.config import load
from rayrec.pipeline.run_context import RunContext
from rayrec.storage import Storage

CONFIG = Path(__file__).parents[2] / "jobs" / "demo.yaml"
USERS = 80
CHECKPOINT = "models/llm/0123456789abcdef"


@dataclass(frozen=True)
class Made:
    """A dataset, an output root with one published run, and some of its users."""

    data_root: Path
    root: Path
    date: date
    gone: tuple[str, ...]  # users with a slate, one of them in the report

    @property
    def storage(self) -> Storage:
        return Storage(str(self.root))

    @property
    def options(self) -> list[str]:
        sets = (
            f"data.root={self.data_root}",
            f"output.root={self.root}",
            "output.tables=[{format: delta}]",
            "rerank.method=none",
            "blend.cutoffs=0",
            "slate.policy=plackett_luce",
            "slate.settings={temperature: 0.5}",
            "retrieval.sources={ease: {store_inverse: true}, ials: {factors: 8}, popularity: {}, item_knn: {}}",
        )
        return ["--config", str(CONFIG), *(word for one in sets for word in ("--set", one))]

    def context(self, when: date | None = None) -> RunContext:
        return RunContext(load(CONFIG, self.options[3::2]), when or self.date)

    def run(self, main: typer.Typer, *more: str) -> Result:
        return CliRunner().invoke(main, [*self.options, *more])

    def file_of(self, users: tuple[str, ...], name: str = "users.csv") -> Path:
        path = self.root.parent / name
        pa_csv.write_csv(pa.table({"user_id": list(users)}), path)
        return path

    def contents(self) -> dict[str, bytes]:
        return {info.path: self.storage.read(info.path) for info in self.storage.list()}
