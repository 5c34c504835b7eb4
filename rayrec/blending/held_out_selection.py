"""Which scorers enter the blend, and how strongly they are shrunk: decided on held-out users of the training examples.

A scorer is a group of feature columns: a retriever's, a content feature's, the LLM's. Users are split into folds by a
hash of their id. In each fold the weights are fitted on the other users. A group's gain is the mean over users of the
log-likelihood of what they consumed, with the group less without it, both out of fold.

    content features, LLM   backward elimination: while some gain's bootstrap interval is not above 0, the group with
                            the smallest gain in standard errors is dropped
    retrievers              the L2 penalty of each is multiplied by 10, 100 or infinity where the interval of what that
                            gains is above 0; they share much, so that the test above would drop most of them

Other weights than the fitted ones come from the quadratic expansion of each fold's loss at its optimum w: with a
penalty D more, (H + D)^-1 H w; without columns, the same with an infinite D. So a group costs no fit of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from rayrec.blending.blender import ScorerGain
from rayrec.blending.conditional_logit import LogitData, LogitFit, fit_logit, log_likelihoods
from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.numerics.types import Float32s, Float64s, Int64s

MIN_USERS = 50  # fewer users show nothing: no weights are learned, no scorer enters
_MAX_ROWS = 3000  # examples that decide; more would only cost time
_FOLDS, _RESAMPLES, _LEVEL = 4, 1000, 0.95
_FACTORS = (1.0, 10.0, 100.0, np.inf)
_SALT = np.uint64(derive_seed("held-out users"))

Groups = Mapping[str, Sequence[int]]


def select_scorers(
    data: LogitData, users: pa.Array, groups: Groups, tested: Collection[str], l2: float, whole: LogitFit
) -> tuple[ScorerGain, ...]:
    """Decide on each group of columns, in the order of `groups`; columns in no group always stay.

    `users`: the user id of each row of `data`; `tested`: the groups that must have a gain above 0, the others are
    shrunk; `whole`: the fit on all rows.
    """
    held_out = _HeldOut.of(data, users, l2, whole)
    if held_out.users < MIN_USERS:
        return tuple(
            ScorerGain(name, 0.0, 0.0, 0.0, held_out.users, name not in tested, None if name in tested else 1.0)
            for name in groups
        )
    gains = _eliminate(held_out, groups, tested)
    factors = {name: 1.0 if gain.entered else np.inf for name, gain in gains.items()}
    factors = _shrink(held_out, groups, factors, [name for name in groups if name not in tested])
    return tuple(
        replace(gains[name], l2_factor=factor if np.isfinite(factor) else None, entered=bool(np.isfinite(factor)))
        for name, factor in factors.items()
    )


def penalties(columns: int, groups: Groups, factors: Mapping[str, float]) -> Float64s:
    """The factor of the penalty of each column, [columns]."""
    result = np.ones(columns)
    for name, own in groups.items():
        result[list(own)] = factors[name]
    return result


def _eliminate(held_out: _HeldOut, groups: Groups, tested: Collection[str]) -> dict[str, ScorerGain]:
    factors, found = dict.fromkeys(groups, 1.0), dict[str, ScorerGain]()
    while True:
        kept = [name for name in groups if np.isfinite(factors[name])]
        without = [factors, *({**factors, name: np.inf} for name in kept)]
        likelihood = held_out.likelihoods([penalties(held_out.columns, groups, each) for each in without])
        gain = likelihood[:, :1] - likelihood[:, 1:]
        intervals = np.quantile(held_out.resampled @ gain, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
        mean, error = gain.mean(0), gain.std(0) / np.sqrt(held_out.users)
        for at, name in enumerate(kept):
            low, high = float(intervals[0, at]), float(intervals[1, at])
            found[name] = ScorerGain(name, float(mean[at]), low, high, held_out.users, True)
        useless = [at for at, name in enumerate(kept) if name in tested and not found[name].low > 0]
        if not useless:
            return found
        weakest = kept[min(useless, key=lambda at: mean[at] / max(error[at], 1e-12))]
        found[weakest] = replace(found[weakest], entered=False)
        factors[weakest] = np.inf


def _shrink(held_out: _HeldOut, groups: Groups, factors: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Choose the factors of these groups one by one, the others given."""
    found = dict(factors)
    for name in names:
        choices = [penalties(held_out.columns, groups, {**found, name: factor}) for factor in _FACTORS]
        likelihood = held_out.likelihoods(choices)
        gain = likelihood - likelihood[:, :1]
        low = np.quantile(held_out.resampled @ gain, (1 - _LEVEL) / 2, axis=0)
        found[name] = _FACTORS[int(np.argmax(np.where(low > 0, gain.mean(0), 0)))]
    return found


@dataclass(frozen=True)
class _HeldOut:
    """The folds, and what is common to all comparisons."""

    folds: tuple[_Fold, ...]
    user: Int64s  # of each row, from 0
    users: int
    resampled: Float32s  # [resamples, users] shares of a Poisson bootstrap of users

    @classmethod
    def of(cls, data: LogitData, users: pa.Array, l2: float, whole: LogitFit) -> _HeldOut:
        key = splitmix64(hash_strings(users) ^ _SALT)
        rows = np.sort(np.argsort(key, kind="stable")[:_MAX_ROWS])
        data, key = data.take(rows), key[rows]
        distinct, user = np.unique(key, return_inverse=True)
        count = len(distinct)
        if count < MIN_USERS:
            return cls((), user, count, np.zeros((0, count), np.float32))
        fold, folds = user % _FOLDS, []
        for number in range(_FOLDS):
            others, own = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            fit = fit_logit(data.take(others), np.full(len(whole.weights), l2), whole)
            folds.append(_Fold(data.take(own), own, fit, l2))
        rng = np.random.default_rng(derive_seed("scorer gains"))
        drawn = rng.poisson(1.0, (_RESAMPLES, count)).astype(np.float32)  # the multinomial one, less slow
        drawn /= np.maximum(drawn.sum(1, keepdims=True), 1)
        return cls(tuple(folds), user, count, drawn)

    @property
    def columns(self) -> int:
        return len(self.folds[0].fit.weights)

    def likelihoods(self, factors: Sequence[Float64s]) -> Float64s:
        """Log-likelihood of each user's examples out of fold, [users, len(factors)], by penalty factors [columns]."""
        total = np.zeros((self.users, len(factors)))
        for fold in self.folds:
            weights = np.stack([fold.weights(factor) for factor in factors], axis=1)
            np.add.at(total, self.user[fold.rows], log_likelihoods(fold.held_out, fold.fit, weights))
        return total


@dataclass(frozen=True)
class _Fold:
    held_out: LogitData
    rows: Int64s  # of the data
    fit: LogitFit  # on all other rows
    l2: float

    def weights(self, factor: Float64s) -> Float64s:
        """The weights [columns] with the penalties times these factors, by the quadratic expansion."""
        stays = np.flatnonzero(np.isfinite(factor))
        hessian = self.fit.hessian[np.ix_(stays, stays)] + np.diag(2 * self.l2 * (factor[stays] - 1))
        result = np.zeros(len(factor))
        result[stays] = np.linalg.solve(hessian, (self.fit.hessian @ self.fit.weights)[stays])
        return result
