"""Scored candidates to SLATE: one arm's published rows for one shard."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.contracts.ragged import Ragged
from rayrec.contracts.schemas import SLATE
from rayrec.hashing import digest, seed_of
from rayrec.slates.blend import Blend, Prior
from rayrec.slates.policies import SlatePolicy


@dataclass(frozen=True)
class AssembleStage:
    """Reads candidate_schema or reranked_schema, writes SLATE sorted by (user_id, rank).

    Users without candidates get no row. `sources` name the int8 `source` column; `item_ids` the item codes.
    """

    blend: Blend
    prior: Prior
    policy: SlatePolicy
    size: int
    sources: tuple[str, ...]
    item_ids: pa.Array
    date: datetime.date
    run: str  # what makes slate ids differ between days and configs

    def __call__(self, table: pa.Table, arm: str) -> pa.Table:
        scores = self.blend.scores(table, self.prior)
        table, scores = _sorted_by_user(table, scores)
        user_ids = table["user_id"].combine_chunks()
        ordered = self.policy.order(scores, user_ids, self.size, seed_of(self.run, arm))
        places, rows = ordered.places, ordered.places.rows
        code = Ragged.from_arrow(table["candidate"]).values[places.values]
        source = Ragged.from_arrow(table["source"]).values[places.values]
        user_row = pa.array(rows.astype(np.int32))
        count = len(rows)
        columns = [
            pa.repeat(pa.scalar(self.date, pa.date32()), count),
            pa.repeat(pa.scalar(arm), count),
            slate_ids(self.run, arm, user_ids).take(user_row),
            user_ids.take(user_row),
            pa.array((np.arange(count) - places.offsets[rows] + 1).astype(np.int16)),
            self.item_ids.take(pa.array(code)),
            pa.array(scores.values[places.values]),
            pa.array(self.sources, pa.string()).take(pa.array(source)),
            pa.array(ordered.propensity),
        ]
        return pa.table(columns, schema=SLATE)


def slate_ids(run: str, arm: str, user_ids: pa.Array) -> pa.Array:
    """A stable id for each user's slate: 128 bits of SipHash keyed by (run, arm), as 32 hex characters."""
    users = np.asarray(user_ids.to_pylist(), dtype=object)
    halves = [pd.util.hash_array(users, hash_key=digest([run, arm, half]), categorize=False) for half in (0, 1)]
    text = np.stack(halves, axis=1).astype(">u8").tobytes().hex().encode()
    offsets = np.arange(0, 32 * len(users) + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(len(users), pa.py_buffer(offsets), pa.py_buffer(text))


def _sorted_by_user(table: pa.Table, scores: Ragged) -> tuple[pa.Table, Ragged]:
    order = pc.sort_indices(table["user_id"])
    if np.array_equal(order.to_numpy(), np.arange(len(table))):
        return table, scores
    rows = Ragged.from_arrow(scores.to_arrow(pa.float32()).take(order))
    return table.take(order).combine_chunks(), rows
