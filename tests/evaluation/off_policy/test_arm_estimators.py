"""Estimators of arms against the enumeration of every slate of a tiny world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.enumerated_world import World, make
from rayrec.evaluation.off_policy import arm_estimates  # noqa: F401  (registers the estimators)
from rayrec.evaluation.off_policy.arm_estimator import ARM_ESTIMATORS, TargetLog
from rayrec.evaluation.off_policy.item_cascade_dr import ItemCascadeDr
from rayrec.evaluation.off_policy.trimmed_rips import TrimmedRips

DRAWS = 4_000  # at equal distances: as good as the whole distribution


def every_slate(world: World, draws: int = DRAWS) -> tuple[np.ndarray, TargetLog]:
    """Each (context, slate) once in both folds, with its probability; rewards are their expectations."""
    contexts, _, ranks = world.mean.shape
    chance = (world.logging.prod(axis=2) / contexts).ravel()
    at = np.repeat(np.flatnonzero(chance > 0), 2)
    item = np.broadcast_to(world.slates, world.mean.shape).reshape(-1, ranks)
    return chance[at] / 2, log_of(world, at, world.mean.reshape(-1, ranks), item, draws)


def log_of(world: World, at: np.ndarray, reward: np.ndarray, item: np.ndarray, draws: int) -> TargetLog:
    """The slates `at`; items are their own hashes; draws at equal distances, the same for all slates."""
    ranks = world.mean.shape[2]
    cumulative = np.cumsum(world.target_items.reshape(-1, ranks, world.target_items.shape[3])[at], axis=2)
    points = (np.arange(draws) + 0.5) / draws
    counts = np.diff((cumulative[..., None, :] > points[:, None]).argmax(axis=-1), axis=-1, prepend=0)
    drawn = np.cumsum(counts, axis=-1).astype(np.uint64)
    shape = (len(at), ranks)
    return TargetLog(
        user=np.arange(len(at)),
        fold=np.arange(len(at)) % 2,
        reward=reward[at],
        logging=world.logging.reshape(-1, ranks)[at],
        target=world.target.reshape(-1, ranks)[at],
        mask=np.ones(shape, bool),
        item=item[at].astype(np.uint64),
        drawn=drawn,
        has_drawn=np.ones(shape, bool),
        logging_marginal=world.logging_marginal.reshape(-1, ranks)[at],
        target_marginal=world.target_marginal.reshape(-1, ranks)[at],
    )


def test_iips_is_unbiased_where_ranks_do_not_interact() -> None:
    for model, unbiased in (("independent", True), ("cascade", False)):
        world = make(model, 0, contexts=2, items=4, ranks=3)
        chance, log = every_slate(world, draws=1)
        found = ARM_ESTIMATORS["sn_iips"]().contributions(log)
        terms = (chance[:, None] * found.numerator).sum(axis=0) / (chance[:, None] * found.denominator).sum(axis=0)
        assert (terms.sum() == pytest.approx(world.truth, rel=1e-9)) == unbiased


def test_iips_says_what_it_lacks() -> None:
    _, log = every_slate(make("independent", 0, contexts=2, items=4, ranks=2), draws=1)
    unknown = replace(log, target_marginal=np.full_like(log.target_marginal, np.nan))
    assert ARM_ESTIMATORS["sn_iips"]().problem(log) is None
    assert "no marginal propensities" in str(ARM_ESTIMATORS["sn_iips"]().problem(unknown))


@pytest.mark.parametrize("model", ["independent", "cascade"])
def test_item_cascade_dr_is_unbiased_for_whatever_model_of_rewards(model: str) -> None:
    world = make(model, 0, contexts=2, items=4, ranks=3)
    chance, log = every_slate(world)
    found = ItemCascadeDr().contributions(log)
    assert (chance[:, None] * found.numerator).sum() == pytest.approx(world.truth, abs=2e-3 * world.truth)
    assert (chance[:, None] * found.denominator).sum(axis=0) == pytest.approx(np.ones(3))


def test_item_cascade_dr_has_less_spread_where_items_differ() -> None:
    """The variance over all slates, enumerated; rewards are their expectations: only the draw of the slate varies."""
    world = make("independent", 0, contexts=2, items=4, ranks=3)
    chance, log = every_slate(world)
    spread = {}
    for name in ("cascade_dr", "cascade_dr_item"):
        value = ARM_ESTIMATORS[name]().contributions(log).numerator.sum(axis=1)
        spread[name] = chance @ value**2 - (chance @ value) ** 2
    assert spread["cascade_dr_item"] < 0.9 * spread["cascade_dr"]


@pytest.mark.parametrize("never_logged", [(), (3,), (2, 3)])
@pytest.mark.parametrize("model", ["independent", "cascade"])
def test_trimmed_bounds_hold_the_truth_also_of_items_that_are_never_logged(
    model: str, never_logged: tuple[int]
) -> None:
    world = make(model, 0, contexts=2, items=5, ranks=2, never_logged=never_logged)
    chance, log = every_slate(world, draws=1)
    found = TrimmedRips()
    low, high = ((chance[:, None] * found.bound(log, reward).numerator).sum() for reward in (0.0, log.reward.max()))
    if never_logged:
        assert low < world.truth < high
    else:
        assert low == pytest.approx(world.truth)
        assert high == pytest.approx(world.truth)


def test_trimmed_intervals_widen_with_what_is_missing() -> None:
    widths = []
    for never_logged in ((), (3,), (2, 3)):
        world = make("cascade", 0, contexts=4, items=5, ranks=2, never_logged=never_logged)
        contexts, _, ranks = world.mean.shape
        every = (world.logging.prod(axis=2) / contexts).ravel()
        at = np.random.default_rng(0).choice(len(every), size=4_000, p=every / every.sum())
        item = np.broadcast_to(world.slates, world.mean.shape).reshape(-1, ranks)
        estimate = TrimmedRips().estimate(log_of(world, at, world.mean.reshape(-1, ranks), item, 1))
        assert estimate.low < world.truth < estimate.high
        assert estimate.low <= estimate.value <= estimate.high
        widths.append(estimate.high - estimate.low)
    assert widths == sorted(widths)
    assert widths[0] < 0.1 * widths[2]


@pytest.mark.parametrize("name", sorted(ARM_ESTIMATORS))
def test_the_difference_from_what_was_shown_is_that_of_the_values(name: str) -> None:
    _, log = every_slate(make("cascade", 0, contexts=2, items=4, ranks=2), draws=8)
    estimator, own = ARM_ESTIMATORS[name](), log.reward.sum(axis=1).mean()
    value, difference = estimator.estimate(log), estimator.difference(log)
    assert difference.value == pytest.approx(value.value - own)
    assert difference.low < difference.value < difference.high
    same = replace(log, target=log.logging, drawn=log.item[:, :, None], target_marginal=log.logging_marginal)
    none = estimator.difference(same)
    assert none.value == pytest.approx(0, abs=0.05)
    assert none.low - 1e-9 <= 0 <= none.high + 1e-9
