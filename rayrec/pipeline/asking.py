"""What is asked tonight, and in what words the LLM is told."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.contracts.ragged import Ragged
from rayrec.instructions.facets import Facets
from rayrec.instructions.sentences import Sentences
from rayrec.pipeline.day import Day
from rayrec.pipeline.instructions import instruction_table
from rayrec.pipeline.models import catalogue_of

Bools = npt.NDArray[np.bool_]


@lru_cache(maxsize=2)
def requests(day: Day) -> pa.Table:
    """INSTRUCTION, once a process."""
    return instruction_table(day)


@lru_cache(maxsize=2)
def facets(day: Day) -> Facets:
    """What a request may name of the items, once a process."""
    return Facets.of(catalogue_of(day))


def anything_asked(day: Day) -> bool:
    """Whether somebody asks for something tonight: then the LLM is tuned to listen."""
    return len(requests(day)) > 0


@lru_cache(maxsize=2)
def arms_named(day: Day) -> frozenset[str]:
    """The arms that have rows of their own."""
    return frozenset(requests(day)["arm"].drop_null().to_pylist())


def has_events(table: pa.Table) -> Bools:
    """Which rows have a history to read, [n]."""
    result: Bools = Ragged.from_arrow(table["item"]).lengths > 0
    return result


def told_in_words(day: Day, preference: pa.Array, intention: pa.Array, history: Bools) -> pa.StringArray:
    """What the LLM that reads item tokens is told, string [n]: a matching template with what is asked; null where
    nothing is. `history` [n]: who has events to read."""
    say = Sentences(day.templates)

    def told(liked: str, wanted: str, has: bool) -> str | None:
        if not liked and not wanted:
            return None
        return say(liked, wanted, history=has)

    rows = zip(preference.to_pylist(), intention.to_pylist(), history.tolist(), strict=True)
    return pa.array([told(liked or "", wanted or "", has) for liked, wanted, has in rows], pa.string())
