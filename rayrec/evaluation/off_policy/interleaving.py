"""Team-draft interleaving (Radlinski, Kurup & Joachims 2008): two rankings in one list, and which one users prefer.

The rankings add their best item that is not yet in the list in turn; a coin decides which is first in each round. A
consumed item is a point for the ranking that added it. Interleaving needs far fewer users than an A/B test for the same
certainty, but only shows which ranking is preferred, not by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp
from scipy.stats import binomtest

from rayrec.errors import DataError
from rayrec.evaluation.metrics import UserMetrics
from rayrec.numerics.hashing import splitmix64
from rayrec.numerics.types import Int64s

NO_TEAM = -1
INTERLEAVING = pa.schema(
    [
        pa.field("system", pa.string(), nullable=False),
        pa.field("baseline", pa.string(), nullable=False),
        pa.field("wins", pa.int64(), nullable=False),  # users who consumed more of the system's items
        pa.field("losses", pa.int64(), nullable=False),
        pa.field("ties", pa.int64(), nullable=False),
        pa.field("p", pa.float64(), nullable=False),  # exact sign test
    ]
)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's step


@dataclass(frozen=True)
class Interleaved:
    """One interleaved list per user; both [users, depth], −1 past the end."""

    item: Int64s  # codes
    team: npt.NDArray[np.int8]  # 0: added by the first ranking, 1: by the second


@dataclass(frozen=True)
class InterleavingResult:
    """Numbers of users who consumed more items of one ranking than of the other."""

    first: int
    second: int
    ties: int
    p_value: float  # exact two-sided sign test without the ties


def team_draft(first: Int64s, second: Int64s, seeds: npt.NDArray[np.uint64]) -> Interleaved:
    """Interleave two rankings [users, depth] of distinct item codes, −1 past the end; seeds [users].

    A list ends with `depth` items, or when one ranking has no more items, as in the paper. Each row depends only on its
    own rankings and seed.
    """
    if first.shape != second.shape or len(seeds) != len(first):
        raise DataError(
            f"rankings of {first.shape} and {second.shape} with {len(seeds)} seeds cannot be interleaved",
            hint="give both rankings the same shape, padded with -1, and one seed a user",
        )
    users, depth = first.shape
    item, team = np.full((users, depth), -1, np.int64), np.full((users, depth), NO_TEAM, np.int8)
    left = np.stack([first >= 0, second >= 0])  # [2, users, depth]: may still be added
    rankings, row = np.stack([first, second]), np.arange(users)
    lead = np.zeros(users, np.int64)  # items of the first minus items of the second
    steps = np.arange(1, depth + 1, dtype=np.uint64) * _GOLDEN
    for place in range(depth):
        coin = splitmix64(seeds.astype(np.uint64) + steps[place]) >> np.uint64(63)
        turn = np.where(lead == 0, coin.astype(np.int64), (lead > 0).astype(np.int64))
        going = left.any(axis=2).all(axis=0)
        picked = rankings[turn, row, left[turn, row].argmax(axis=1)]
        item[:, place] = np.where(going, picked, -1)
        team[:, place] = np.where(going, turn, NO_TEAM)
        lead += np.where(going, 1 - 2 * turn, 0)
        left &= rankings != picked[None, :, None]
    return Interleaved(item, team)


def team_credit(lists: Interleaved, user: Int64s, item: Int64s) -> Int64s:
    """Points of the first and the second ranking, [users, 2]: the items of each team that the user consumed.

    `user` [m] (the row in the lists) and `item` [m]: consumed items; repeated ones count once.
    """
    span = max(int(lists.item.max(initial=0)), int(item.max(initial=0))) + 1
    there = lists.item >= 0
    keys = np.arange(len(lists.item))[:, None] * span + lists.item
    consumed = np.isin(keys, user * span + item) & there
    return np.stack([(consumed & (lists.team == team)).sum(axis=1) for team in (0, 1)], axis=1)


def sign_test(points: Int64s) -> InterleavingResult:
    """From the points [users, 2] of `team_credit`; users who consumed nothing from the list are ties."""
    first, second = int((points[:, 0] > points[:, 1]).sum()), int((points[:, 0] < points[:, 1]).sum())
    p_value = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return InterleavingResult(first, second, len(points) - first - second, p_value)


def interleaving(arms: Sequence[UserMetrics], relevant: sp.csr_matrix, baseline: str, seed: int) -> pa.Table:
    """INTERLEAVING of every arm with the baseline, on the users of both; `relevant` [users, items]: consumed items.

    Users did not see the interleaved list: the credit is for items consumed anyway. Arms without common users have no
    row.
    """
    base = next(arm for arm in arms if arm.system == baseline)
    consumed = relevant.tocoo()
    rows = []
    for arm in arms:
        users, mine, theirs = np.intersect1d(arm.rows, base.rows, assume_unique=True, return_indices=True)
        if arm is base or not len(users):
            continue
        seeds = splitmix64(users.astype(np.uint64) ^ np.uint64(seed))
        lists = team_draft(arm.top[mine].astype(np.int64), base.top[theirs].astype(np.int64), seeds)
        place = np.full(relevant.shape[0], -1, np.int64)
        place[users] = np.arange(len(users))
        known = place[consumed.row] >= 0
        found = sign_test(team_credit(lists, place[consumed.row][known], consumed.col[known].astype(np.int64)))
        counts = {"wins": found.first, "losses": found.second, "ties": found.ties, "p": found.p_value}
        rows.append({"system": arm.system, "baseline": baseline, **counts})
    return pa.Table.from_pylist(rows, INTERLEAVING)
