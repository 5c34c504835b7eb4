"""What is asked tonight, and in what words the LLM is told."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.instructions.facets import Facets
from rayrec.instructions.instruction_prompt import InstructionRenderer
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.instruction_ingest import instruction_table
from rayrec.pipeline.models import load_catalogue
from rayrec.pipeline.run_context import RunContext

Bools = npt.NDArray[np.bool_]


@lru_cache(maxsize=2)
def requests(context: RunContext) -> pa.Table:
    """INSTRUCTION, once a process."""
    return instruction_table(context)


@lru_cache(maxsize=2)
def facets(context: RunContext) -> Facets:
    """What a request may name of the items, once a process."""
    return Facets.of(load_catalogue(context))


def has_requests(context: RunContext) -> bool:
    """Whether somebody asks for something tonight: then the LLM is tuned to listen."""
    return len(requests(context)) > 0


@lru_cache(maxsize=2)
def arms_with_requests(context: RunContext) -> frozenset[str]:
    """The arms that have rows of their own."""
    return frozenset(requests(context)["arm"].drop_null().to_pylist())


def has_history(table: pa.Table) -> Bools:
    """Which rows have a history to read, [n]."""
    result: Bools = Ragged.from_arrow(table["item"]).lengths > 0
    return result


def render_instructions(
    context: RunContext, preference: pa.Array, intention: pa.Array, history: Bools
) -> pa.StringArray:
    """What the LLM that reads item tokens is told, string [n]: a matching template with what is asked; null where
    nothing is. `history` [n]: who has events to read."""
    say = InstructionRenderer(context.templates)

    def told(liked: str, wanted: str, has: bool) -> str | None:
        if not liked and not wanted:
            return None
        return say(liked, wanted, history=has)

    rows = zip(preference.to_pylist(), intention.to_pylist(), history.tolist(), strict=True)
    return pa.array([told(liked or "", wanted or "", has) for liked, wanted, has in rows], pa.string())
