"""The blend's lessons as files, one a cut and shard: a unit that has its file is not read again.

They lie in a folder of the run's own, named by the run id: whatever can change a lesson makes another run, so no file
of other settings, inputs or code is ever taken for one of this run. Where nobody teaches, the file holds no rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.pipeline.run_context import RunContext
from rayrec.storage import Storage, layout
from rayrec.storage.tables import read_arrow, write_arrow


def training_examples_folder(context: RunContext) -> str:
    return layout.training_examples_folder(context.work_folder, context.record.run_id)


@dataclass(frozen=True)
class TrainingExampleStore:
    """Of one run: `folder` is its own."""

    storage: Storage
    folder: str

    def path(self, cut: int, shard: int) -> str:
        return layout.training_examples_path(self.folder, cut, shard)

    def paths(self) -> frozenset[str]:
        """Of the files that are there."""
        return frozenset(info.path for info in self.storage.list(self.folder))

    def write(self, cut: int, shard: int, table: pa.Table) -> None:
        write_arrow(self.storage, self.path(cut, shard), table)

    def read(self, cut: int, shards: int, variant: str) -> list[pa.Table]:
        """What a retrieve variant's rows teach as of a cut: a table for each shard in which there are some."""
        tables = []
        for shard in range(shards):
            table = read_arrow(self.storage, self.path(cut, shard))
            if table.num_rows:  # else it may have fewer columns, too
                tables.append(table.filter(pc.field("variant") == variant))
        return [table for table in tables if table.num_rows]
