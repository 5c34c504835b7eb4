"""The smallest part of a history that keeps a slate, after LiMA ("Less is More Attribution", Chen et al. 2024).

The model is EASE, a retriever of the run: item i of the history adds c_ij = x_i B_ij to the score of item j. With the
slate's items j, F(S) = sum_j sqrt(sum_{i in S} max(c_ij, 0) / sum_i max(c_ij, 0)) is monotone and submodular: a second
item that supports the same j adds less, so the chosen part covers the slate. Greedy selection reaches 1 - 1/e of the
best part of each size (Nemhauser, Wolsey & Fisher 1978).

What a part keeps is measured by ranking all items again with it alone: an item of the slate is kept if it is among the
`depth` best. Items that the whole history does not rank there are not explained by it: other sources found them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayrec.numerics.types import Bools, Float32s, Float64s, Int64s

KEEP = 0.8  # share of the explained items that the part must keep


@dataclass(frozen=True)
class Explanation:
    """The smallest part of a history, in greedy order, and what it keeps."""

    items: tuple[int, ...]  # item codes, the most important first
    history: int  # distinct items that could be in it
    kept: int  # of the slate's items
    explained: int  # of the slate's items, by the whole history
    slate: int


@dataclass(frozen=True)
class LinearHistory:
    """A user's retained items with what each adds to the score of every item."""

    item: Int64s  # [n] codes, distinct
    added: Float32s  # [n, items] x_i B_ij

    def order(self, slate: Int64s) -> Int64s:
        """Places [n] of the items in greedy order for these items [k]."""
        support = np.maximum(self.added[:, slate].astype(np.float64), 0)
        support /= np.maximum(support.sum(0), 1e-12)
        left, covered, found = np.ones(len(self.item), np.bool_), np.zeros(len(slate)), []
        for _ in range(len(self.item)):
            gain = (np.sqrt(covered + support) - np.sqrt(covered)).sum(1)
            best = int(np.argmax(np.where(left, gain, -1.0)))  # of ties the item with the lowest code
            found.append(best)
            left[best] = False
            covered = covered + support[best]
        return np.array(found, np.int64)

    def leave_one_out_order(self, slate: Int64s) -> Int64s:
        """Places [n] by how much the slate's scores fall without the item, the largest fall first: for comparison."""
        return np.argsort(-self.added[:, slate].sum(1, dtype=np.float64), kind="stable")

    def kept(self, order: Int64s, slate: Int64s, depth: int, *, deletion: bool = False) -> Bools:
        """Which of the slate's items are among the `depth` best with the first n items alone, [len(item) + 1, k].

        `deletion`: without the first n items instead. Items of the history are never ranked.
        """
        total = self.added.sum(0, dtype=np.float64)
        found = np.zeros((len(order) + 1, len(slate)), np.bool_)
        score = np.zeros(len(total))
        for number in range(len(order) + 1):
            if number:
                score = score + self.added[order[number - 1]]
            current = total - score if deletion else score
            ranked = np.where(np.isin(np.arange(len(total)), self.item), -np.inf, current)
            above = (ranked[None, :] > current[slate][:, None] + 1e-9).sum(1)
            found[number] = (above < depth) & (current[slate] > 1e-9)
        return found

    def explain(self, slate: Int64s, depth: int, keep: float = KEEP) -> Explanation:
        """The shortest start of the greedy order that keeps `keep` of the items that the whole history explains."""
        order = self.order(slate)
        kept = self.kept(order, slate, depth)
        explained = kept[-1]
        count = (kept & explained).sum(1)
        size = int(np.argmax(count >= keep * count[-1] - 1e-9)) if explained.any() else 0
        items = tuple(int(self.item[place]) for place in order[:size])
        return Explanation(items, len(self.item), int(count[size]), int(count[-1]), len(slate))


def mean_curve(history: LinearHistory, order: Int64s, slate: Int64s, depth: int) -> tuple[float, float]:
    """Mean share of the explained items kept, over all numbers of items: inserted in this order, and deleted.

    A good order has a high first value and a low second one. NaN if nothing is explained.
    """
    explained = history.kept(order, slate, depth)[-1]
    if not explained.any():
        return float("nan"), float("nan")
    curves: list[Float64s] = [
        history.kept(order, slate, depth, deletion=deletion)[:, explained].mean(1) for deletion in (False, True)
    ]
    return float(curves[0].mean()), float(curves[1].mean())


def linear_history(item: Sequence[int], profile: Sequence[float], weights: Float32s) -> LinearHistory:
    """From distinct item codes [n] with their profile values, and the rows [n, items] of EASE's weights."""
    codes = np.asarray(item, np.int64)
    order = np.argsort(codes, kind="stable")
    return LinearHistory(codes[order], (np.asarray(profile, np.float32)[:, None] * weights)[order])
