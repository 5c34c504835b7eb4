"""Metrics and probes of the benchmark, compared with their definitions and on known noise."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from small_users import NOW, WEIGHTS, events, histories

from benchmarks.embed_noise import with_noise
from benchmarks.embed_probe import auc, difference_interval, ks, out_of_fold_scores
from rayrec.embeddings import Events


@settings(max_examples=50, deadline=None)
@given(
    yes=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    no=st.lists(st.integers(0, 4), min_size=1, max_size=20),
)
def test_auc_and_ks_equal_their_definitions(yes: list[int], no: list[int]) -> None:
    labels = np.array([1.0] * len(yes) + [0.0] * len(no))
    score = np.array([*yes, *no], np.float64)
    pairs = np.mean([(y > n) + (y == n) / 2 for y in yes for n in no])
    assert np.isclose(auc(labels, score), pairs)
    assert np.isclose(ks(labels, score), ks_2samp(yes, no, method="asymp").statistic)


def test_a_probe_finds_signal_and_gives_chance_on_noise() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(600, 5))
    there = (vectors[:, 0] + 0.5 * rng.normal(size=600) > 0).astype(float)
    chance = rng.integers(0, 2, 600).astype(float)
    vectors[::7, 3] = np.nan
    found, nothing = out_of_fold_scores(vectors, there, 0), out_of_fold_scores(vectors, chance, 0)
    assert auc(there, found) > auc(there, vectors[:, 0]) - 0.02
    assert abs(auc(chance, nothing) - 0.5) < 0.08
    low, high = difference_interval({"t": there}, {"t": found}, {"t": nothing}, 0)
    assert 0 < low < auc(there, found) - auc(there, nothing) < high
    assert difference_interval({"t": there}, {"t": found}, {"t": found}, 0) == (0.0, 0.0)


def test_noise_is_added_to_the_history_only_and_marked() -> None:
    table = histories()
    noisy, marks = with_noise(table, NOW, 0.5, WEIGHTS, 0)
    clean, after = events(), Events.of(noisy, WEIGHTS, NOW)
    planted = Events.of(marks, WEIGHTS, NOW).item > 0
    assert 0.3 < planted.sum() / len(clean.item) < 0.6
    own = after.filter(~planted)
    for name in ("offsets", "item", "ts", "event", "value"):
        np.testing.assert_array_equal(getattr(own, name), getattr(clean, name))
    late, late_noisy = (Events.of(t, WEIGHTS, 2 * NOW) for t in (table, noisy))
    assert (late.ts >= NOW).sum() == (late_noisy.ts >= NOW).sum()
    assert with_noise(table, NOW, 0.0, WEIGHTS, 0)[0].equals(table)
