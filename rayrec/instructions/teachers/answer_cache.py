"""Answers of a model, kept by what was asked: a folder of parquet files that only ever grows.

Each file holds the answers of one batch under a name made from their keys, so that a batch asked twice at once is
written twice with one name. Of two answers to one key the first, by file name, stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.numerics.hashing import digest
from rayrec.storage import Storage

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("finished", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Answer:
    text: str  # as the model wrote it
    finished: bool  # False: it would have gone on


@dataclass(frozen=True)
class AnswerCache:
    """The answers below one folder of a storage."""

    storage: Storage
    folder: str

    def read(self, keys: Sequence[str]) -> dict[str, Answer]:
        """Those of the keys that have been answered."""
        wanted = set(keys)
        found: dict[str, Answer] = {}
        for part in self.storage.list(self.folder):
            with self.storage.open(part.path) as file:
                table = pq.read_table(file, schema=_SCHEMA)
            for key, text, finished in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if key in wanted:
                    found.setdefault(key, Answer(text, finished))
        return found

    def add(self, answers: Mapping[str, Answer]) -> None:
        rows = [{"key": key, "text": answer.text, "finished": answer.finished} for key, answer in answers.items()]
        with self.storage.writer(f"{self.folder}/{digest(sorted(answers))}.parquet") as file:
            pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), file, compression="zstd")
