"""Off-policy estimators in simulations with a known truth: bias, spread, and coverage of the 95% interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.enumerated_world import MODELS, Floats, Sample, make
from rayrec.evaluation.off_policy.action_estimators import (
    clipped_ips,
    direct_method,
    doubly_robust,
    ips,
    self_normalised_dr,
    snips,
    switch_dr,
)
from rayrec.evaluation.off_policy.estimates import Contributions, confidence_interval
from rayrec.evaluation.off_policy.slate_estimators import cascade_dr, iips, rips, sips, sn_iips, sn_rips, sn_sips

OBSERVATIONS = 1000  # logged slates, or actions, of one repetition
CAP = 1.5  # of weights that go up to about 2

POINTWISE: dict[str, Callable[[Floats, Floats, Floats, Floats], Contributions]] = {
    "ips": lambda r, w, q, v: ips(r, w),
    "clipped_ips": lambda r, w, q, v: clipped_ips(r, w, CAP),
    "snips": lambda r, w, q, v: snips(r, w),
    "direct": lambda r, w, q, v: direct_method(v),
    "dr": doubly_robust,
    "self_normalised_dr": self_normalised_dr,
    "switch_dr": lambda r, w, q, v: switch_dr(r, w, q, v, CAP),
}
SLATES: dict[str, Callable[[Sample], Contributions]] = {
    "iips": lambda s: iips(s.reward, s.marginal_weight, s.mask),
    "sn_iips": lambda s: sn_iips(s.reward, s.marginal_weight, s.mask),
    "rips": lambda s: rips(s.reward, s.weight, s.mask),
    "sn_rips": lambda s: sn_rips(s.reward, s.weight, s.mask),
    "cascade_dr": lambda s: cascade_dr(s.reward, s.weight, s.q, s.v, s.mask),
    "sips": lambda s: sips(s.reward, s.weight, s.mask),
    "sn_sips": lambda s: sn_sips(s.reward, s.weight, s.mask),
}
_WRONG_UNDER = {
    "independent": (),
    "cascade": ("iips", "sn_iips"),
    "standard": ("iips", "sn_iips", "rips", "sn_rips", "cascade_dr"),
    "one action": ("clipped_ips", "direct", "switch_dr"),
}


@dataclass(frozen=True)
class Coverage:
    """Of one estimator in one world, over all repetitions."""

    world: str
    estimator: str
    unbiased: bool  # by theory
    truth: float
    bias: float
    spread: float  # standard deviation of the value
    standard_error: float  # as estimated, mean
    coverage: float
    size: float  # effective sample size, mean


def coverages(seeds: Sequence[int], repetitions: int) -> list[Coverage]:
    """`repetitions` a seed, in worlds that stay the same; first the pointwise estimators, on slates of one rank."""
    one = make("independent", 0, ranks=1)

    def pointwise(name: str) -> Callable[[Sample], Contributions]:
        return lambda s: POINTWISE[name](s.reward[:, 0], s.weight[:, 0], s.q[:, 0], s.v[:, 0])

    cases = [("one action", one, {name: pointwise(name) for name in POINTWISE})]
    cases += [(model, make(model, 0), SLATES) for model in MODELS]
    found = []
    for title, world, estimators in cases:
        results: dict[str, list[tuple[float, ...]]] = {name: [] for name in estimators}
        for seed in seeds:
            for repetition in range(repetitions):
                sample = world.draw(OBSERVATIONS, np.random.default_rng([seed, repetition]))
                for name, estimator in estimators.items():
                    e = confidence_interval(estimator(sample))
                    covered = float(e.low <= world.truth <= e.high)
                    results[name].append((e.value, e.standard_error, covered, e.effective_sample_size))
        for name, rows in results.items():
            value, error, covered, size = np.array(rows).T
            numbers = (value.mean() - world.truth, value.std(), error.mean(), covered.mean(), size.mean())
            found.append(Coverage(title, name, name not in _WRONG_UNDER[title], world.truth, *map(float, numbers)))
    return found


def order_holds(table: Sequence[Coverage], world: str) -> bool:
    """Whether variance rises from IIPS to RIPS to SIPS and falls from RIPS to cascade-DR, as published."""
    spread = {row.estimator: row.spread for row in table if row.world == world}
    return spread["iips"] < spread["rips"] < spread["sips"] and spread["cascade_dr"] < spread["rips"]
