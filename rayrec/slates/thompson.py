"""Thompson sampling of slates from the user's closed-form ridge posterior (Thompson 1933; Li et al. 2011).

With frozen item factors V and the retained history S, theta ~ N(p, A^-1), A = lambda I + sum_{k in S} v_k v_k'. The
blended score is the mean, and the posterior gives its uncertainty: candidate j scores blend_j + scale * v_j' L^-T z,
A = L L', z ~ N(0, I), with variance scale^2 v_j' A^-1 v_j. Users without history explore most; items without factors
have no variance.

Several z, the *particles*, are drawn from (run, user, arm). At each rank one particle, drawn uniformly, chooses its
best remaining candidate. Given the particles, the probability of a candidate is exactly the share of particles whose
best it is, at least 1 / particles. As an estimate of Thompson sampling with infinitely many particles it has the
standard error sqrt(p (1 - p) / particles).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import Field
from scipy.special import ndtri
from torch import Tensor

from rayrec.config.section import MethodSettings
from rayrec.numerics.batch_invariant import from_numpy
from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.ridge_blocks import padded_length, single_thread
from rayrec.numerics.top_k import descending_keys, positions_of
from rayrec.numerics.types import Bools, Float32s, Int64s
from rayrec.slates.policies import POLICIES, PolicySlates, SlatePolicy, uniform_draws
from rayrec.slates.scored_candidates import ScoredCandidates

_BLOCK_CELLS = 4 << 20  # particles x padded candidates sorted at once


class ThompsonSettings(MethodSettings):
    particles: int = Field(128, ge=1, le=4096)
    """Number of draws from the posterior, 1 to 4,096. The smallest propensity is 1 / particles; time grows with it."""
    scale: float = Field(1.0, ge=0)
    """Factor of the posterior's uncertainty, in units of the blended score; 0 is greedy."""
    regularization: float = Field(10.0, gt=0)
    """Ridge of the posterior, above 0; smaller values mean more uncertainty."""


@POLICIES.register
class Thompson(SlatePolicy):
    """At each rank the best remaining candidate of one draw from the posterior over iALS factors."""

    name = "thompson"
    settings_class = ThompsonSettings
    explores = True
    needs_factors = True
    settings: ThompsonSettings

    def order(self, scored: ScoredCandidates, size: int, seed: int) -> PolicySlates:
        places = Ragged.from_lengths(np.empty(0), np.minimum(scored.scores.lengths, size))
        places = places.like(np.empty(places.offsets[-1], np.int64))
        propensity = np.empty(len(places.values), np.float32)
        who = uniform_draws(derive_seed(seed, "particle"), scored.user_ids, places.lengths)[0]
        who = (who * self.settings.particles).astype(np.int64)
        for users, tops, many in self._particles(scored, size, seed):
            at = _cells(places, users, tops.shape[2])
            drawn = np.where(at >= 0, who[at], 0)
            chosen, share = _walk(tops, many, at >= 0, partial(_named_by, drawn))
            places.values[at[at >= 0]] = (chosen + scored.scores.offsets[users, None])[at >= 0]
            propensity[at[at >= 0]] = share[at >= 0]
        return PolicySlates(places, propensity)

    def probability(self, scored: ScoredCandidates, given: Ragged, size: int, seed: int) -> Float32s:
        """As the base class, with the particles that `order` draws, for any size."""
        result = np.zeros(len(given.values), np.float32)
        ranks = min(size, int(given.lengths.max(initial=0)))
        for users, tops, many in self._particles(scored, ranks, seed):
            at = _cells(given, users, ranks)
            place = np.where(at >= 0, given.values[at], -1)
            place = np.where(place >= 0, place - scored.scores.offsets[users, None], -1)
            _, share = _walk(tops, many, at >= 0, partial(_given, place))
            result[at[at >= 0]] = share[at >= 0]
        return result

    def first_choice(self, scored: ScoredCandidates, seed: int) -> Float32s:
        result = np.zeros(len(scored.scores.values), np.float32)
        for users, tops, _ in self._particles(scored, 1, seed):
            at = tops[:, :, 0] + scored.scores.offsets[users, None]
            np.add.at(result, at, np.float32(1 / self.settings.particles))
        return result

    def _particles(self, scored: ScoredCandidates, ranks: int, seed: int) -> Iterator[tuple[Int64s, Int64s, Int64s]]:
        """Users [b], each particle's best `ranks` candidates, best first, [b, particles, K], and the number of
        candidates [b]. Each block holds users whose history and candidates have the same padded lengths, so that a
        user's result does not depend on other users, to the last bit.
        """
        weights = scored.items.vectors
        lengths = np.stack([padded_length(scored.history.lengths), padded_length(scored.scores.lengths)])
        for past, wide in np.unique(lengths[:, scored.scores.lengths > 0], axis=1).T if ranks else ():
            alike = np.flatnonzero((lengths[0] == past) & (lengths[1] == wide))
            step = max(1, _BLOCK_CELLS // int(wide * self.settings.particles))
            for start in range(0, len(alike), step):
                users = alike[start : start + step]
                history = _padded(scored.history, users, past)
                codes = _padded(scored.candidate, users, wide)
                with single_thread(), torch.inference_mode():
                    doubt = self._doubt(_vectors(weights, *history), _vectors(weights, *codes), scored, users, seed)
                scores = _padded(scored.scores, users, wide)[0][:, None, :] + doubt
                real = np.repeat(codes[1], self.settings.particles, axis=0)
                keys = descending_keys(scores.reshape(-1, wide), real).reshape(scores.shape)
                tops = positions_of(np.sort(keys, axis=2)[:, :, :ranks])
                yield users, tops, scored.scores.lengths[users]

    def _doubt(self, past: Tensor, vectors: Tensor, scored: ScoredCandidates, users: Int64s, seed: int) -> Float32s:
        """Compute scale * v_j' L^-T z of every particle and candidate: float32 [b, particles, candidates]."""
        given, width = self.settings, past.shape[2]
        draws = np.full(len(users), given.particles * width)
        uniform = uniform_draws(seed, scored.user_ids.take(users), draws)[0]
        z = torch.from_numpy(ndtri(uniform).astype(np.float32).reshape(len(users), given.particles, width))
        precision = torch.bmm(past.transpose(1, 2), past)
        precision.diagonal(dim1=1, dim2=2).add_(given.regularization)
        upper = torch.linalg.cholesky(precision).transpose(1, 2)
        theta = torch.linalg.solve_triangular(upper, z.transpose(1, 2), upper=True)
        doubt: Float32s = (given.scale * torch.bmm(vectors, theta)).transpose(1, 2).numpy()
        return doubt


def _walk(
    tops: Int64s, many: Int64s, within: Bools, choose: Callable[[int, Int64s], Int64s]
) -> tuple[Int64s, Float32s]:
    """Choose candidates rank by rank with `choose(rank, bests [b, particles])`; −1 shows nothing.

    Returns the candidates and the share of particles whose best they are, both [b, ranks]. Each particle's pointer only
    moves down its list.
    """
    users, particles, _ = tops.shape
    at = np.zeros((users, particles), np.int64)
    taken = np.zeros((users, int(many.max(initial=0)) + 1), np.bool_)
    chosen, share = np.full(within.shape, -1, np.int64), np.zeros(within.shape, np.float32)
    for rank in range(within.shape[1]):
        best = np.take_along_axis(tops, at[:, :, None], axis=2)[:, :, 0]
        shown = np.where(within[:, rank], choose(rank, best), -1)
        chosen[:, rank] = shown
        share[:, rank] = np.where(shown >= 0, (best == shown[:, None]).sum(1) / particles, 0)
        row = np.flatnonzero(shown >= 0)
        taken[row, shown[row]] = True
        at = _moved(tops, at, taken)
    return chosen, share


def _moved(tops: Int64s, at: Int64s, taken: Bools) -> Int64s:
    """Move every pointer to its first remaining candidate, or to the last one if none remains."""
    last = tops.shape[2] - 1
    while True:
        best = np.take_along_axis(tops, at[:, :, None], axis=2)[:, :, 0]
        blocked = np.take_along_axis(taken, np.minimum(best, taken.shape[1] - 1), axis=1) & (at < last)
        if not blocked.any():
            return at
        at = at + blocked


def _named_by(particle: Int64s, rank: int, best: Int64s) -> Int64s:
    """Best candidate of the particle drawn for this rank, `particle` [b, ranks]."""
    return np.asarray(best[np.arange(len(best)), particle[:, rank]])


def _given(place: Int64s, rank: int, _: Int64s) -> Int64s:
    return np.asarray(place[:, rank])


def _cells(ragged: Ragged, users: Int64s, width: int) -> Int64s:
    """Positions of these rows' first `width` values, [b, width]; −1 past a row's end."""
    steps = np.arange(width)
    return np.where(steps < ragged.lengths[users, None], ragged.offsets[users, None] + steps, -1)


def _padded(ragged: Ragged, users: Int64s, width: int) -> tuple[np.ndarray[Any, Any], Bools]:
    """Values of these rows, padded to `width`, and a mask of the real ones."""
    at = _cells(ragged, users, width)
    real = at >= 0
    return (ragged.values[np.maximum(at, 0)] if len(ragged.values) else np.zeros(at.shape, ragged.values.dtype)), real


def _vectors(weights: Float32s, codes: Int64s, real: Bools) -> Tensor:
    """Item factors, float32 [b, n, d], zero where padded."""
    found = from_numpy(weights)[torch.from_numpy(np.where(real, codes, 0).astype(np.int64))]
    return found.float() * torch.from_numpy(real).unsqueeze(2)
