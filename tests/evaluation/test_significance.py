"""Tests, corrections and power: exact levels, scipy, statsmodels' formulas and hand-computed values."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rayrec.evaluation.significance import (
    GROUPS,
    always_valid_interval,
    bootstrap_groups,
    holm,
    min_detectable_effect,
    sign_flip_p,
    simultaneous_factor,
    welch_p,
)


def test_the_permutation_p_is_the_share_of_sign_patterns_with_such_a_mean() -> None:
    differences = np.array([0.9, 0.4, -0.1, 0.7, 0.3, 0.2, 0.8])
    patterns = np.array(list(product([-1, 1], repeat=len(differences))))
    exact = (np.abs(patterns @ differences) >= abs(differences.sum()) - 1e-12).mean()
    assert sign_flip_p(differences[:, None], seed=0)[0] == pytest.approx(exact, abs=0.004)


def test_the_rate_of_false_positives_is_the_level() -> None:
    rng = np.random.default_rng(0)
    differences = rng.standard_t(3, size=(80, 4000))
    share = (sign_flip_p(differences, seed=1, permutations=999) < 0.05).mean()
    assert share == pytest.approx(0.05, abs=0.01)


def test_equal_systems_have_p_one() -> None:
    assert sign_flip_p(np.zeros((20, 1)), seed=0)[0] == 1
    assert welch_p(np.ones(5), np.ones(9)) == 1


def test_welch_p_equals_scipys() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, 50), rng.normal(0.3, 2, 80)
    assert welch_p(one, other) == pytest.approx(stats.ttest_ind(one, other, equal_var=False).pvalue)


def test_holm_equals_the_textbook_procedure() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrected_p_values_keep_their_order_and_never_shrink(p: list[float]) -> None:
    found = holm(p)
    assert np.all(found >= np.array(p))
    assert np.all(found <= 1)
    assert np.all(np.diff(found[np.argsort(p, kind="stable")]) >= 0)


def test_the_minimum_detectable_effect_has_a_power_of_four_fifths() -> None:
    least = min_detectable_effect(0.01)
    rng = np.random.default_rng(0)
    z = rng.normal(least, 0.01, 20_000) / 0.01
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.01)


def test_many_users_are_grouped_evenly_and_few_users_are_not_grouped() -> None:
    assert bootstrap_groups(50, 0).tolist() == list(range(50))
    counts = np.bincount(bootstrap_groups(3 * GROUPS + 7, 0))
    assert (counts.min(), counts.max(), len(counts)) == (3, 4, GROUPS)


@pytest.mark.parametrize("columns", [1, 2, 6])
def test_simultaneous_intervals_are_sidaks_for_independent_columns_and_single_for_equal_ones(columns: int) -> None:
    random = np.random.default_rng(1).normal(size=(4000, columns))
    uncorrelated = np.linalg.qr(random - random.mean(axis=0))[0]
    assert simultaneous_factor(uncorrelated) == pytest.approx(stats.norm.ppf(0.975 ** (1 / columns)), abs=0.03)
    equal = np.repeat(random[:, :1], columns, axis=1)
    assert simultaneous_factor(equal) == pytest.approx(stats.t.ppf(0.975, 3999), abs=0.03)
    constant = np.zeros((4000, 1))
    assert simultaneous_factor(np.hstack([uncorrelated, constant])) == simultaneous_factor(uncorrelated)


def test_the_always_valid_interval_is_wrong_at_any_of_its_looks_in_at_most_five_percent() -> None:
    rng, always, fixed = np.random.default_rng(0), 0, 0
    for _ in range(400):
        one, other = rng.exponential(size=(2, 4000))
        looks = [(one[:users], other[:users]) for users in range(200, 4001, 200)]
        always += any(low > 0 or high < 0 for _, low, high in (always_valid_interval(*look) for look in looks))
        fixed += any(welch_p(*look) < 0.05 for look in looks)
    assert always / 400 <= 0.05
    assert fixed / 400 > 0.15  # the control: a test of a fixed sample, repeated


def test_the_always_valid_interval_is_at_most_twice_that_of_a_fixed_sample_at_its_best() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 2_500))
    value, low, high = always_valid_interval(one, other)
    assert low < value < high
    assert 1 < (high - low) / (2 * 1.96 * np.sqrt(2 / 2_500)) < 2
