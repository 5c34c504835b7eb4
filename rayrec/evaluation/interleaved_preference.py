"""Arms interleaved with the baseline: whose items did users take, had both been mixed into one list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from rayrec.evaluation.metrics import UserMetrics
from rayrec.evaluation.off_policy.interleaving import sign_test, team_credit, team_draft
from rayrec.numerics.hashing import splitmix64

INTERLEAVING = pa.schema(
    [
        pa.field("system", pa.string(), nullable=False),
        pa.field("against", pa.string(), nullable=False),
        pa.field("wins", pa.int64(), nullable=False),  # users who took more of the system's items
        pa.field("losses", pa.int64(), nullable=False),
        pa.field("ties", pa.int64(), nullable=False),
        pa.field("p", pa.float64(), nullable=False),  # exact sign test
    ]
)


def interleaving(arms: Sequence[UserMetrics], relevant: sp.csr_matrix, baseline: str, seed: int) -> pa.Table:
    """PREFERENCE of every arm against the baseline, on the users of both; `wanted` [users, items] says what they took.

    Nobody was shown the mixed list: what they took anyway is credited. Arms without common users have no row.
    """
    base = next(arm for arm in arms if arm.system == baseline)
    taken = relevant.tocoo()
    rows = []
    for arm in arms:
        users, mine, theirs = np.intersect1d(arm.rows, base.rows, assume_unique=True, return_indices=True)
        if arm is base or not len(users):
            continue
        seeds = splitmix64(users.astype(np.uint64) ^ np.uint64(seed))
        lists = team_draft(arm.top[mine].astype(np.int64), base.top[theirs].astype(np.int64), seeds)
        place = np.full(relevant.shape[0], -1, np.int64)
        place[users] = np.arange(len(users))
        known = place[taken.row] >= 0
        found = sign_test(team_credit(lists, place[taken.row][known], taken.col[known].astype(np.int64)))
        counts = {"wins": found.first, "losses": found.second, "ties": found.ties, "p": found.p_value}
        rows.append({"system": arm.system, "against": baseline, **counts})
    return pa.Table.from_pylist(rows, INTERLEAVING)
