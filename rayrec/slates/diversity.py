"""Diversifiers: reorder each user's best candidates by relevance and similarity to the items above.

A method orders the user's best `depth` candidates; all others follow unchanged. The k-th candidate of the new order
gets the k-th highest score, so that a policy explores with the same score distances. Relevance is the score, min-max
scaled within these candidates to [0, 1] (all 0 if they are equal). Similarity is `by` category, 1 or 0 (0 for items
without one), or by factors, the cosine of the iALS vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch

from rayrec.config import DiversitySettings
from rayrec.config.registry import Registry
from rayrec.config.section import MethodSettings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.ridge_blocks import PaddedBatch, padded_batches, single_thread
from rayrec.numerics.top_k import best, reassign_scores
from rayrec.numerics.types import Bools, Float32s, Float64s, Int32s, Int64s
from rayrec.slates.scored_candidates import CatalogueItems, ScoredCandidates

_WIDTH = 64  # floats per candidate, besides the similarities, in a block of bounded memory


@dataclass(frozen=True)
class TopCandidates:
    """Some users' best candidates, best first; padded length depends only on each user's number of candidates."""

    relevance: Float64s  # [b, n] in [0, 1]; 0 where padded
    mask: Bools  # [b, n]
    code: Int32s  # [b, n]
    history: Ragged  # int32 codes of the retained positive events, b rows
    items: CatalogueItems

    @classmethod
    def of(cls, scored: ScoredCandidates, heads: Ragged, batch: PaddedBatch) -> Self:
        places = heads.values[batch.take]
        scores = scored.scores.values[places].astype(np.float64)
        low = np.min(scores, axis=1, where=batch.mask, initial=np.inf)[:, None]
        span = np.max(scores, axis=1, where=batch.mask, initial=-np.inf)[:, None] - low
        relevance = np.where(batch.mask & (span > 0), (scores - low) / np.where(span > 0, span, 1), 0)
        history = scored.history.take(batch.rows)
        return cls(relevance, batch.mask, scored.candidate.values[places], history, scored.items)

    @cached_property
    def category(self) -> Int32s:
        """[b, n]; −1 if there is none."""
        return np.asarray(self.items.category[self.code])

    def similarity(self, by: str) -> Float64s:
        """Similarity of each pair of a user's candidates, [b, n, n]; 1 on the diagonal."""
        if by == "category":
            kind = self.category
            alike = ((kind[:, :, None] == kind[:, None, :]) & (kind[:, :, None] >= 0)).astype(np.float64)
        else:
            vectors = torch.from_numpy(self.items.vectors[self.code]).double()
            vectors /= vectors.norm(dim=2, keepdim=True).clamp_min(1e-12)
            with single_thread():
                alike = torch.bmm(vectors, vectors.transpose(1, 2)).numpy()
        diagonal = np.arange(alike.shape[1])
        alike[:, diagonal, diagonal] = 1
        return np.asarray(alike)


class Diversifier(ABC):
    """Reorders each user's best candidates, using only that user's candidates and history."""

    name: ClassVar[str]
    settings_class: ClassVar[type[MethodSettings]]  # of `slate.diversity.settings`

    def __init__(self, settings: Any) -> None:
        """`settings`: an instance of `settings_class`."""
        self.settings = settings

    @property
    def needs_factors(self) -> bool:
        return getattr(self.settings, "by", "category") == "factors"

    @abstractmethod
    def order(self, head: TopCandidates) -> Int64s:
        """Positions within the best candidates, [b, n], best first, padded cells last."""


DIVERSIFIERS: Registry[type[Diversifier]] = Registry("slate.diversity.method", "diversification", built_in=("none",))


def make_diversifier(diversity: DiversitySettings) -> Diversifier | None:
    """Create the configured diversifier; None for `none`."""
    return None if diversity.method == "none" else DIVERSIFIERS.lookup(diversity.method)(diversity.settings)


def diversify(method: Diversifier, scored: ScoredCandidates, depth: int, users: Bools) -> Ragged:
    """Scores, ragged float32, that put these `users` [users] into the method's order; all other users are unchanged."""
    deeper = best(scored.scores, depth + 1)
    place = np.arange(len(deeper.values)) - deeper.offsets[deeper.rows]
    heads = deeper.filter((place < depth) & users[deeper.rows])
    below = np.full(len(scored), -np.inf, np.float32)  # best score below the reordered candidates
    behind = place == depth
    below[deeper.rows[behind]] = scored.scores.values[deeper.values[behind]]
    result: Float32s = scored.scores.values.copy()
    for batch in padded_batches(heads.offsets, _WIDTH):
        places = heads.values[batch.take]
        order = method.order(TopCandidates.of(scored, heads, batch))
        falling = reassign_scores(scored.scores.values[places], batch.mask, below[batch.rows])
        result[np.take_along_axis(places, order, axis=1)[batch.mask]] = falling[batch.mask]
    return scored.scores.like(result)


class GreedyOrder:
    """A greedy order under construction: the remaining candidates, and the choices so far."""

    def __init__(self, mask: Bools) -> None:
        self._rows, self._mask, self._left = np.arange(len(mask)), mask, np.ones(mask.shape, np.bool_)
        self.order = np.empty(mask.shape, np.int64)

    def choose(self, rank: int, gain: Float64s) -> Int64s:
        """Choose the remaining candidate of highest finite gain, [b]; ties go to the more relevant; padding last."""
        real = np.where(self._mask, gain, np.finfo(np.float64).min)
        pick: Int64s = np.argmax(np.where(self._left, real, -np.inf), axis=1)
        self._left[self._rows, pick] = False
        self.order[:, rank] = pick
        return pick
