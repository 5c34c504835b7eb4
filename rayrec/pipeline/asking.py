"""What is asked tonight, and how often the LLM reads for it.

A *reading* is one way in which the LLM scores a retrieve variant's candidates: a rerank variant, and whose rows of the
instruction table are put to it. Arms that share both share the reading. A reading's scores are the column
`llm.<reading>` of a shard's table, beside `asked.<reading>` (which users intend something: for them the LLM weighs
more) and `error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Rerank
from rayrec.contracts.ragged import Ragged
from rayrec.instructions.bm25 import Bm25
from rayrec.instructions.facets import Facets
from rayrec.instructions.sentences import Sentences
from rayrec.instructions.table import requests_for
from rayrec.pipeline.day import Day
from rayrec.pipeline.instructions import instruction_table
from rayrec.pipeline.models import catalogue_of
from rayrec.slates.arms import ArmPath, Variant

Bools = npt.NDArray[np.bool_]

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
    return Reading(rerank, path.arm if path.arm in _arms_named(day) else None)


def readings(day: Day) -> tuple[Reading, ...]:
    """Every reading once, in the order in which the arms need it."""
    found = [reading for path in day.arms if (reading := reading_of(day, path)) is not None]
    return tuple({reading.name: reading for reading in found}.values())


def served(day: Day, reading: Reading) -> tuple[str, ...]:
    """The arms that a reading serves."""
    own = [(path.arm, reading_of(day, path)) for path in day.arms]
    return tuple(arm for arm, one in own if one is not None and one.name == reading.name)


def anything_asked(day: Day) -> bool:
    """Whether somebody asks for something tonight: then the LLM is tuned to listen."""
    return len(requests(day)) > 0


def requested(day: Day, reading: Reading, user_ids: pa.ChunkedArray) -> tuple[pa.StringArray, pa.StringArray]:
    """What users prefer and intend, string [n] each; null where the table says nothing."""
    return requests_for(requests(day), user_ids, reading.arm or "")


def told_in_words(
    day: Day, reading: Reading, preference: pa.Array, intention: pa.Array, history: Bools
) -> pa.StringArray:
    """What the LLM is told, string [n]; null where nothing is asked. `history` [n]: who has events to read.

    By item tokens a matching template says it; who reads text is told the plain words, and says the rest itself.
    """
    say = Sentences(day.templates)

    def told(liked: str, wanted: str, has: bool) -> str | None:
        if not liked and not wanted:
            return None
        if reading.method.reads_text:
            return ". ".join(part for part in (wanted, liked) if part)
        return say(liked, wanted, history=has)

    rows = zip(preference.to_pylist(), intention.to_pylist(), history.tolist(), strict=True)
    return pa.array([told(liked or "", wanted or "", has) for liked, wanted, has in rows], pa.string())


def searches(day: Day, user_ids: pa.ChunkedArray, arms: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The texts, [n], by which candidates are looked for, for users of these arms: everything they intend in any."""
    whose = dict.fromkeys(arm if arm in _arms_named(day) else "" for arm in arms)
    columns = [requests_for(requests(day), user_ids, arm)[1].to_pylist() for arm in whose]
    return [tuple(dict.fromkeys(text for text in row if text)) for row in zip(*columns, strict=True)]


def with_reading(table: pa.Table, reading: Reading | None) -> pa.Table:
    """A shard's table with one reading's scores as `score.llm` and its `asked`; without any where there is none."""
    out = table.select([name for name in table.column_names if not name.startswith((LLM, ASKED, WAY))])
    if reading is None or f"{LLM}{reading.name}" not in table.column_names:
        return out
    asked = pc.fill_null(table[f"{ASKED}{reading.name}"], False)
    return out.append_column("score.llm", table[f"{LLM}{reading.name}"]).append_column("asked", asked)


def search(day: Day, texts: Sequence[Sequence[str]], top: int) -> Ragged:
    """The items, int32 codes, whose titles, categories and facets match the texts of each row: the best `top` of each
    text, so that no text takes the place of another. Who matches two of them stands there twice."""
    found = {text: _matching(day, text, top) for text in dict.fromkeys(text for row in texts for text in row)}
    rows = [np.concatenate([np.empty(0, np.int32), *(found[text] for text in row)]) for row in texts]
    return Ragged.from_lengths(np.concatenate([np.empty(0, np.int32), *rows]), [len(row) for row in rows])


def _matching(day: Day, text: str, top: int) -> npt.NDArray[np.int32]:
    scores = _words(day).scores([text])[0]
    best = np.argsort(-scores, kind="stable")[:top]
    found: npt.NDArray[np.int32] = best[scores[best] > 0].astype(np.int32)
    return found


@lru_cache(maxsize=2)
def _words(day: Day) -> Bm25:
    catalogue, own = catalogue_of(day), facets(day)
    named = [" ".join(own.name[facet] for facet in own.of_item[row]) for row in range(catalogue.num_rows)]
    parts = zip(catalogue["title"].to_pylist(), catalogue["category"].to_pylist(), named, strict=True)
    return Bm25(f"{title} {category or ''} {names}" for title, category, names in parts)


@lru_cache(maxsize=2)
def requests(day: Day) -> pa.Table:
    """INSTRUCTION, once a process."""
    return instruction_table(day)


@lru_cache(maxsize=2)
def facets(day: Day) -> Facets:
    return Facets.of(catalogue_of(day))


def has_events(table: pa.Table) -> Bools:
    """Which rows have a history to read, [n]."""
    result: Bools = Ragged.from_arrow(table["item"]).lengths > 0
    return result


@lru_cache(maxsize=2)
def _arms_named(day: Day) -> frozenset[str]:
    return frozenset(requests(day)["arm"].drop_null().to_pylist())
