"""Users of earlier days as lessons: who can teach, what they then took, and what they might have asked for it.

A lesson row has a column `wanted` (list<int32>: the items that were right) and a column `ask` (string; null: nothing
was asked). Where something is asked tonight, a user teaches twice: once as it was, and once as if they had asked, by
the rules teacher, for one of the items that they took; right is then what satisfies the request.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.cutoff_histories import consumed_after, histories_at, is_training_user
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.numerics.hashing import derive_seed, hash_strings
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.instruction_inputs import facets, has_requests
from rayrec.pipeline.run_context import RunContext

SIMULATED_REQUEST, CONSUMED = "ask", "wanted"

Bools = npt.NDArray[np.bool_]


def consumed_in_horizon(context: RunContext, everything: pa.Table, cut: int) -> Ragged:
    """The items, int32, that each user of HISTORY rows took within the blend's horizon after the cut."""
    until = cut + int(context.config.blend.horizon_days * MICROSECONDS_PER_DAY)
    return consumed_after(everything, cut, until, context.event_weights, new_only=context.config.retrieval.exclude_seen)


def training_users(context: RunContext, everything: pa.Table, wanted: Ragged, cut: int, share: float) -> Bools:
    """Users [users] who took something to learn from; of many, the share with the smallest hashes."""
    sampled = hash_strings(everything["user_id"]) < np.uint64(min(share, 1.0) * (2**64 - 2**11))
    result: Bools = is_training_user(histories_at(everything, cut), wanted, context.config.blend.min_events) & sampled
    return result


def training_examples(context: RunContext, table: pa.Table, user_ids: pa.Array, wanted: Ragged, cut: int) -> pa.Table:
    """Rows of `table` with what their users wanted, then, if something is asked tonight, again with requests.

    `wanted`: int32 item codes of `user_ids`, which hold every user of the table.
    """
    own = wanted.take(pc.index_in(table["user_id"].combine_chunks(), user_ids).to_numpy().astype(np.int64))
    plain = _told(table, own, pa.nulls(table.num_rows, pa.string()))
    if not has_requests(context):
        return plain
    texts, right = _requests(context, table["user_id"].to_pylist(), own, cut)
    rows = pa.array(np.flatnonzero(right.lengths > 0))
    return pa.concat_tables([plain, _told(table, right, pa.array(texts, pa.string())).take(rows)])


def _told(table: pa.Table, wanted: Ragged, ask: pa.Array) -> pa.Table:
    return table.append_column(CONSUMED, wanted.to_arrow(pa.int32())).append_column(SIMULATED_REQUEST, ask)


def _requests(context: RunContext, users: list[str], wanted: Ragged, cut: int) -> tuple[list[str], Ragged]:
    """A request of each user, from a seed of their own: its words, and which of the wanted items satisfy it."""
    teacher = InstructionSimulator(facets(context))
    texts, right = [], np.zeros(len(wanted.values), np.bool_)
    for row, user in enumerate(users):
        rng = np.random.default_rng(derive_seed("lesson", cut, user))
        target = rng.choice(wanted[row]) if len(wanted[row]) else -1
        request = teacher.specific(np.array([target] if target >= 0 else [], np.int64), rng)
        texts.append(request.text[0] if request.text else "")
        if texts[-1]:
            good = np.zeros(len(wanted[row]), np.int64)
            right[wanted.offsets[row] : wanted.offsets[row + 1]] = teacher.facets.satisfied(
                wanted[row].astype(np.int64), request.include[good], request.exclude[good]
            )
    return texts, wanted.filter(right)
