"""A cache of generated answers in storage, keyed by the digest of the question: a folder of parquet files, append-only.

Each file holds one batch of answers under a name derived from their keys, so that two runs of a batch write the same
file. Of two answers to a key, the one in the first file by name is used.
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
    """A generated text. `finished`: it ended before the token limit."""

    text: str
    finished: bool


@dataclass(frozen=True)
class AnswerCache:
    """The cached answers in one folder of a storage."""

    storage: Storage
    folder: str

    def read(self, keys: Sequence[str]) -> dict[str, Answer]:
        """The cached answers to these keys."""
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
