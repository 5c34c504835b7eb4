"""Answers of a model, kept by what was asked: a folder of parquet files that only ever grows.

Each file holds the answers of one batch under a name made from their keys, so that a batch asked twice at once is
written twice with one name. Of two answers to one key the first, by file name, stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from rayrec.numerics.hashing import digest
from rayrec.storage import Storage, layout
from rayrec.storage.tables import read_parquet, write_parquet

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
            table = read_parquet(self.storage, part.path, _SCHEMA)
            for key, text, finished in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if key in wanted:
                    found.setdefault(key, Answer(text, finished))
        return found

    def add(self, answers: Mapping[str, Answer]) -> None:
        rows = [{"key": key, "text": answer.text, "finished": answer.finished} for key, answer in answers.items()]
        path = layout.teacher_answers_path(self.folder, digest(sorted(answers)))
        write_parquet(self.storage, path, pa.Table.from_pylist(rows, schema=_SCHEMA))
