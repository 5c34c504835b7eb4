"""Each rule on small histories, and compared with plain Python on random ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from planted_noise import histories

from rayrec.denoising.denoiser import REASONS, Histories
from rayrec.denoising.heuristic_rules import RuleDenoiser, RulesSettings, burst, repeated, retracted, short_dwell
from rayrec.numerics.ragged import Ragged

SECOND, DAY = 1_000_000, 86_400_000_000


def one_user(
    items: list[int], weights: list[float] | None = None, ts: list[int] | None = None, dwell: list[int] | None = None
) -> Histories:
    item = Ragged.from_lengths(np.array(items, np.int32), [len(items)])
    made = histories(item, np.array(weights if weights is not None else [1.0] * len(items)))
    times = item.like(np.array(ts if ts is not None else range(len(items)), np.int64))
    looked = item.like(np.array(dwell if dwell is not None else [-1] * len(items), np.int32))
    return Histories(item, times, made.weight, made.value, looked)


def test_a_return_retracts_the_newest_purchase_of_the_item() -> None:
    found = retracted(one_user([7, 7, 8, 7, 7], [1, 1, 1, -1, 1]), retraction_days=60)
    assert found.tolist() == [False, True, False, False, False]


def test_two_returns_retract_two_purchases_and_a_third_retracts_none() -> None:
    found = retracted(one_user([7, 7, 7, 7, 7], [1, 1, -1, -1, -1]), retraction_days=60)
    assert found.tolist() == [True, True, False, False, False]


def test_a_return_before_any_purchase_retracts_nothing() -> None:
    assert not retracted(one_user([7, 7], [-1, 1]), retraction_days=60).any()


def test_a_late_return_retracts_nothing() -> None:
    history = one_user([7, 7], [1, -1], ts=[0, 61 * DAY])
    assert not retracted(history, retraction_days=60).any()
    assert retracted(history, retraction_days=62).tolist() == [True, False]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([-1.0, 0.0, 1.0])), max_size=30))
def test_retractions_equal_those_of_a_stack(events: list[tuple[int, int, float]]) -> None:
    events = sorted(events, key=lambda event: event[0])  # by user
    lengths = [sum(user == row for row, _, _ in events) for user in range(3)]
    item = Ragged.from_lengths(np.array([code for _, code, _ in events], np.int32), lengths)
    whole = histories(item, np.array([weight for *_, weight in events], np.float32))
    stacks: dict[tuple[int, int], list[int]] = {}
    expected = [False] * len(events)
    for place, (user, code, weight) in enumerate(events):
        stack = stacks.setdefault((user, code), [])
        if weight > 0:
            stack.append(place)
        elif weight < 0 and stack:
            expected[stack.pop()] = True
    assert retracted(whole, retraction_days=1e6).tolist() == expected


def test_a_basket_is_one_time_and_a_script_is_a_burst() -> None:
    basket = one_user(list(range(30)), ts=[5] * 30)
    script = one_user(list(range(30)), ts=[k * SECOND for k in range(30)])
    slow = one_user(list(range(30)), ts=[k * 60 * SECOND for k in range(30)])
    assert not burst(basket.ts, 20, 60.0).any()
    assert burst(script.ts, 20, 60.0).all()
    assert not burst(slow.ts, 20, 60.0).any()


@given(
    st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=1, max_size=4), st.integers(2, 5), st.integers(0, 10)
)
def test_bursts_equal_those_of_a_count_in_every_window(users: list[list[int]], moments: int, seconds: int) -> None:
    rows = [sorted(user) for user in users]
    flat = np.array([t * SECOND for row in rows for t in row], np.int64)
    found = burst(Ragged.from_lengths(flat, [len(row) for row in rows]), moments, float(seconds))
    expected = []
    for row in rows:
        starts = [s for s in set(row) if len({t for t in row if s <= t <= s + seconds}) > moments]
        expected += [any(s <= t <= s + seconds for s in starts) for t in row]
    assert found.tolist() == expected


def test_repeats_count_by_item_and_day() -> None:
    history = one_user([7, 7, 7, 8, 7, 7], ts=[0, 1, 2, 3, 4, DAY])
    assert repeated(history, 3).tolist() == [False, False, False, False, True, False]


def test_short_dwell_is_relative_to_the_users_mean() -> None:
    history = one_user([1, 2, 3, 4, 5, 6], dwell=[100, 100, 100, 100, 5, -1])
    assert short_dwell(history, 0.2, 5).tolist() == [False] * 4 + [True, False]
    assert not short_dwell(history, 0.2, 6).any()


def test_the_strongest_rule_removes_first_and_is_the_reason() -> None:
    history = one_user(
        [1, 2, 3, 4, 5, 6, 7, 8, 8, 9], [1] * 8 + [-1, 1], dwell=[100, 100, 100, 100, 100, 100, 2, 2, -1, 2]
    )
    decision = RuleDenoiser(RulesSettings(max_removed_share=0.12)).decide(history)
    assert np.flatnonzero(decision.keep_weight == 0).tolist() == [7]  # one may be removed: the returned purchase
    assert REASONS[decision.reason[7]] == "retracted"
    both = RuleDenoiser(RulesSettings(max_removed_share=0.23)).decide(history)
    assert np.flatnonzero(both.keep_weight == 0).tolist() == [7, 9]  # then the newest with a short dwell
    assert REASONS[both.reason[9]] == "short_dwell"
