"""Effects by day: known answers, coverage of the trend under dependence, and planted novelty."""

from __future__ import annotations

import numpy as np
import pytest

from rayrec.evaluation.effect_by_day import MIN_DAYS, Observations, effect_by_day

DAYS = 10


def observed(users: int, seed: int, effect: np.ndarray, share: float = 1.0) -> Observations:
    """Values with a user's own level on all days, of which the user shows up on a share."""
    rng = np.random.default_rng(seed)
    value = rng.normal(size=users)[:, None] + rng.normal(size=(users, DAYS)) + effect
    user, day = np.nonzero(rng.random((users, DAYS)) < share)
    return Observations(user, day, value[user, day])


def test_each_day_has_the_difference_of_its_means() -> None:
    one, other = observed(200, 0, np.zeros(DAYS)), observed(300, 1, np.zeros(DAYS))
    found = effect_by_day("b", one, other, paired=False)
    for day in found.days:
        expected = one.on(day.day).value.mean() - other.on(day.day).value.mean()
        assert day.difference == pytest.approx(expected)
        assert day.low < day.difference < day.high
        assert day.users == 500
    assert found.trend is not None
    slope = np.polyfit(range(DAYS), [day.difference for day in found.days], 1)[0]
    assert found.trend.slope == pytest.approx(slope)


def test_values_of_the_same_users_are_subtracted_first() -> None:
    base = observed(200, 0, np.zeros(DAYS))
    better = Observations(base.user, base.day, base.value + 0.5 - 0.03 * base.day)
    found = effect_by_day("b", better, base, paired=True)
    assert [day.difference for day in found.days] == pytest.approx([0.5 - 0.03 * day for day in range(DAYS)])
    assert found.trend is not None
    assert found.trend.slope == pytest.approx(-0.03)
    assert found.trend.p < 1e-6
    assert "the effect changes over 10 days" in found.sentence


def test_without_novelty_a_trend_is_found_in_five_percent_although_users_repeat() -> None:
    found = 0
    for seed in range(300):
        one, other = (observed(80, 2 * seed + arm, np.zeros(DAYS), 0.6) for arm in (0, 1))
        trend = effect_by_day("b", one, other, paired=False).trend
        assert trend is not None
        found += trend.p < 0.05
    assert 0.01 <= found / 300 <= 0.10


def test_a_novelty_effect_that_wears_off_is_found() -> None:
    wearing = 0.6 * 0.7 ** np.arange(DAYS)
    found = 0
    for seed in range(40):
        one, other = observed(300, 2 * seed, wearing), observed(300, 2 * seed + 1, np.zeros(DAYS))
        trend = effect_by_day("b", one, other, paired=False).trend
        assert trend is not None
        found += trend.p < 0.05 and trend.slope < 0
    assert found >= 34


def test_few_days_or_users_have_no_trend() -> None:
    one, other = observed(100, 0, np.zeros(DAYS)), observed(100, 1, np.zeros(DAYS))
    early = [Observations(o.user[o.day < MIN_DAYS - 1], o.day[o.day < 2], o.value[o.day < 2]) for o in (one, other)]
    found = effect_by_day("b", *early, paired=False)
    assert found.trend is None
    assert "too few" in found.sentence
    assert effect_by_day("b", observed(10, 0, np.zeros(DAYS)), other, paired=False).days == ()
