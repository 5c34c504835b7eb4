"""Team-draft interleaving (Radlinski, Kurup & Joachims 2008): two rankings as one list, and which of them users prefer.

In turns, each ranking puts its best item that is not yet in the list; a coin decides who goes first in every round. An
item taken by the user is a point for the ranking that put it there. Far fewer users than an A/B test for the same
certainty, but it only says which is preferred, not by how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from rayrec.errors import DataError
from rayrec.numerics.hashing import splitmix64

NO_TEAM = -1

Items = npt.NDArray[np.int64]  # codes; -1 past the end
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's step


@dataclass(frozen=True)
class Interleaved:
    """One list a user; both [users, depth], -1 past the end."""

    item: Items
    team: npt.NDArray[np.int8]  # 0: put there by the first ranking, 1: by the second


@dataclass(frozen=True)
class InterleavingResult:
    """Users whose items came more often from one ranking than from the other."""

    first: int
    second: int
    ties: int
    p_value: float  # exact two-sided sign test; ties say nothing

    @property
    def margin(self) -> float:
        """In [-1/2, 1/2], above 0 where the first is preferred (Chapelle et al. 2012)."""
        users = self.first + self.second + self.ties
        return (self.first + self.ties / 2) / users - 0.5 if users else 0.0


def team_draft(first: Items, second: Items, seeds: npt.NDArray[np.uint64]) -> Interleaved:
    """Interleave two rankings [users, depth] of distinct items; seeds [users].

    A list ends with `depth` items, or when one ranking has nothing more to add, as in the paper. Each row depends on
    its own rankings and seed alone.
    """
    if first.shape != second.shape or len(seeds) != len(first):
        raise DataError(
            f"rankings of {first.shape} and {second.shape} with {len(seeds)} seeds cannot be interleaved",
            hint="give both rankings the same shape, padded with -1, and one seed a user",
        )
    users, depth = first.shape
    item, team = np.full((users, depth), -1, np.int64), np.full((users, depth), NO_TEAM, np.int8)
    left = np.stack([first >= 0, second >= 0])  # [2, users, depth]: may still be put
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


def team_credit(lists: Interleaved, user: npt.NDArray[np.int64], item: Items) -> npt.NDArray[np.int64]:
    """Points of the first and the second ranking, [users, 2]: the items of each team that the user took.

    `user` [m] (the row in the lists) and `item` [m]: what was taken; what is not in the list, or taken again, counts
    nothing.
    """
    span = max(int(lists.item.max(initial=0)), int(item.max(initial=0))) + 1
    there = lists.item >= 0
    keys = np.arange(len(lists.item))[:, None] * span + lists.item
    taken = np.isin(keys, user * span + item) & there
    return np.stack([(taken & (lists.team == team)).sum(axis=1) for team in (0, 1)], axis=1)


def sign_test(points: npt.NDArray[np.int64]) -> InterleavingResult:
    """Out of the points [users, 2] of `credit`; users who took nothing from the list are ties."""
    first, second = int((points[:, 0] > points[:, 1]).sum()), int((points[:, 0] < points[:, 1]).sum())
    p_value = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return InterleavingResult(first, second, len(points) - first - second, p_value)
