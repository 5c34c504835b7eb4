"""How often the LLM reads.

A *reading* is one way in which the LLM scores a retrieve variant's candidates: a rerank variant, and whose rows of the
instruction table are put to it. Arms that share both share the reading. A reading's scores are the column
`llm.<reading>` of a shard's table, beside `intends.<reading>` (which users intend something: for them the LLM weighs
more) and `error`.

Under a split a reading is of the users of the arms that it serves, and of the users of every arm that explores and
whose denoising these arms share: without it nobody could say what they would have made of slates left to chance
(`looked_at`). Where a small arm's LLM is dear, an explorer beside it costs a reading of all of the explorer's users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Rerank
from rayrec.instructions.table import requests_for
from rayrec.pipeline.asking import arms_named, requests
from rayrec.pipeline.day import Day
from rayrec.pipeline.models import explores
from rayrec.slates.arms import ArmPath, Variant

Bools = npt.NDArray[np.bool_]

SCORES, INTENDS, WAY = "llm.", "intends.", "way."  # begin the columns of a reading


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


def looked_at(day: Day, arms: Sequence[str], user_ids: pa.ChunkedArray) -> Bools:
    """Which users [n] the candidates of these arms are looked at for, by the LLM and by the arms' slates: their own
    users, and those to whom another arm shows something by chance, for TARGET.

    Who takes no part in the experiment is compared with nobody, so they are looked at for their own arm alone.
    """
    members, part = day.arms.members(user_ids), day.arms.participants(user_ids)
    exploring = [members[path.arm] & part for path in day.arms if explores(path)]
    found: Bools = np.any([*(members[arm] for arm in arms), *exploring], axis=0)
    return found


def requested(day: Day, reading: Reading, user_ids: pa.ChunkedArray) -> tuple[pa.StringArray, pa.StringArray]:
    """What users prefer and intend, string [n] each; null where the table says nothing."""
    return requests_for(requests(day), user_ids, reading.arm or "")


def with_reading(table: pa.Table, reading: Reading | None) -> pa.Table:
    """A shard's table with one reading's scores as `score.llm` and its `asked`; without any where there is none."""
    out = table.select([name for name in table.column_names if not name.startswith((SCORES, INTENDS, WAY))])
    if reading is None or f"{SCORES}{reading.name}" not in table.column_names:
        return out
    asked = pc.fill_null(table[f"{INTENDS}{reading.name}"], False)
    return out.append_column("score.llm", table[f"{SCORES}{reading.name}"]).append_column("asked", asked)
