"""How often the LLM reads.

A *reading* is one way in which the LLM scores a retrieve variant's candidates: a rerank variant, and whose rows of the
instruction table are put to it. Arms that share both share the reading. A reading's scores are the column
`llm.<reading>` of a shard's table, beside `asked.<reading>` (which users intend something: for them the LLM weighs
more) and `error`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Rerank
from rayrec.instructions.table import requests_for
from rayrec.pipeline.asking import arms_named, requests
from rayrec.pipeline.day import Day
from rayrec.slates.arms import ArmPath, Variant

LLM, ASKED, WAY = "llm.", "asked.", "way."  # begin the columns of a reading


@dataclass(frozen=True)
class Reading:
    """`arm`: whose requests are read besides those of all arms; None: nobody's in particular."""

    rerank: Variant
    arm: str | None

    @property
    def method(self) -> Rerank:
        return self.rerank.read(Rerank)

    @property
    def reader(self) -> str:
        """Readings of one reader are read together."""
        return self.method.reader

    @property
    def name(self) -> str:
        return self.rerank.name if self.arm is None else f"{self.rerank.name}@{self.arm}"


def reading_of(day: Day, path: ArmPath) -> Reading | None:
    """How an arm's candidates are read; None where it asks no LLM."""
    rerank = path.at("rerank")
    if rerank.read(Rerank).method == "none":
        return None
    return Reading(rerank, path.arm if path.arm in arms_named(day) else None)


def readings(day: Day) -> tuple[Reading, ...]:
    """Every reading once, in the order in which the arms need it."""
    found = [reading for path in day.arms if (reading := reading_of(day, path)) is not None]
    return tuple({reading.name: reading for reading in found}.values())


def served(day: Day, reading: Reading) -> tuple[str, ...]:
    """The arms that a reading serves."""
    own = [(path.arm, reading_of(day, path)) for path in day.arms]
    return tuple(arm for arm, one in own if one is not None and one.name == reading.name)


def requested(day: Day, reading: Reading, user_ids: pa.ChunkedArray) -> tuple[pa.StringArray, pa.StringArray]:
    """What users prefer and intend, string [n] each; null where the table says nothing."""
    return requests_for(requests(day), user_ids, reading.arm or "")


def with_reading(table: pa.Table, reading: Reading | None) -> pa.Table:
    """A shard's table with one reading's scores as `score.llm` and its `asked`; without any where there is none."""
    out = table.select([name for name in table.column_names if not name.startswith((LLM, ASKED, WAY))])
    if reading is None or f"{LLM}{reading.name}" not in table.column_names:
        return out
    asked = pc.fill_null(table[f"{ASKED}{reading.name}"], False)
    return out.append_column("score.llm", table[f"{LLM}{reading.name}"]).append_column("asked", asked)
