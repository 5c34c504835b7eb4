"""The contest of `denoise.method: auto`: its measure against the plain metrics, and its decision."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.data.schemas import HISTORY
from rayrec.denoising.auto import NONE, AutoSettings, contestants
from rayrec.denoising.denoiser import Denoiser, DenoisingDecision, Histories
from rayrec.denoising.no_denoising import NoDenoising
from rayrec.evaluation.denoising_contest import BEATEN, FEW, NO_GAIN, TAIL, WINS, CutoffScores, decide, score_cutoff
from rayrec.evaluation.metrics import RelevantItems, user_metrics
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.ease import EaseRetriever, EaseSettings
from rayrec.retrieval.fit_data import FitDataCollector
from rayrec.retrieval.user_histories import UserHistories

ITEMS, CUTOFF, LATER = 40, 1_000, 2_000
SETTINGS = AutoSettings(candidates={"ease": {}, "rules": {}}, budgets=(0.1,), min_users=20)
TRIED = contestants(SETTINGS)


@dataclass(frozen=True)
class RemoveItems(Denoiser):
    """Removes the events of these items."""

    items: frozenset[int]
    name = "items"

    @classmethod
    def load(cls, arrays: object, settings: object) -> RemoveItems:
        raise NotImplementedError

    def decide(self, histories: Histories) -> DenoisingDecision:
        decision = DenoisingDecision.all_retained(len(histories.item.values))
        out = np.isin(histories.item.values, list(self.items))
        decision.keep_weight[out], decision.reason[out] = 0, 1
        return decision


def world(users: int = 80, seed: int = 0) -> pa.Table:
    """HISTORY: users of two tastes (items 0 to 14 and 15 to 29), some events of items 30 to 39, and later events."""
    random, rows = np.random.default_rng(seed), []
    for user in range(users):
        own = random.permutation(15)[:9] + 15 * (user % 2)
        noise = random.permutation(10)[:3] + 30
        item = [*random.permutation(np.concatenate([own[:6], noise])), *own[6:]]
        ts = [*range(100, 109), *range(CUTOFF, CUTOFF + 3)]
        rows.append((f"u{user}", item, ts))
    size = [len(item) for _, item, _ in rows]

    def ragged(values: list[list[float]], kind: pa.DataType) -> pa.Array:
        return pa.array(values, pa.list_(kind))

    columns = [
        pa.array([user for user, _, _ in rows]),
        ragged([item for _, item, _ in rows], pa.int32()),
        ragged([ts for _, _, ts in rows], pa.int64()),
        ragged([[0] * n for n in size], pa.int8()),
        ragged([[1.0] * n for n in size], pa.float32()),
        ragged([[-1] * n for n in size], pa.int32()),
        ragged([[] for _ in size], pa.int32()),
    ]
    return pa.table(columns, schema=HISTORY)


def scores(table: pa.Table, *denoisers: Denoiser, settings: AutoSettings = SETTINGS) -> CutoffScores:
    return score_cutoff(table, CUTOFF, LATER, denoisers, (1.0,), ITEMS, settings, 5.0)


def test_the_measure_is_ndcg_at_10_of_ease() -> None:
    table = world()
    collected = FitDataCollector(ITEMS, np.ones(1, np.float32), CUTOFF, 10**6)
    collected.add(table)
    ease = EaseRetriever.fit(collected.finish(), EaseSettings(regularization=5.0, min_users=1))
    item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"])
    past = ts.values < CUTOFF
    own = item.filter(past)
    ones = own.like(np.ones(len(own.values), np.float32))
    score = np.asarray(UserHistories(own, ts.filter(past), ones, ITEMS).matrix(None) @ ease.weights)
    score[own.rows, own.values] = -np.inf
    best = np.argsort(-score, axis=1, kind="stable")[:, :10]
    users, ids = table["user_id"].to_pylist(), [f"{code:02d}" for code in range(ITEMS)]
    slates = pa.table(
        {
            "user_id": np.repeat(users, 10),
            "rank": np.tile(np.arange(1, 11), len(users)).astype(np.int32),
            "item_id": [ids[code] for code in best.ravel()],
        }
    )
    later = item.filter(~past)
    pairs = pa.array([users[row] for row in later.rows]), pa.array([ids[code] for code in later.values])
    expected = user_metrics("ease", slates, RelevantItems.from_pairs(*pairs, pa.array(ids))).values["ndcg@10"]
    found = scores(table, NoDenoising())
    assert np.allclose(np.sort(found.refit[:, 0]), np.sort(expected))
    assert found.events[0] == past.sum()
    assert np.array_equal(found.refit[:, 0], found.refit[:, 1])
    assert np.array_equal(found.inputs[:, 0], found.refit[:, 0])


def test_what_removes_the_noise_gains_and_is_counted() -> None:
    table = world()
    found = scores(table, RemoveItems(frozenset(range(30, 40))), RemoveItems(frozenset(range(0, 15))))
    gain = found.refit.mean(0) - found.refit[:, 0].mean()
    assert gain[1] > 0 > gain[2]
    item, ts = Ragged.from_arrow(table["item"]).values, Ragged.from_arrow(table["ts"]).values
    assert found.removed[0].tolist() == [0, ((item >= 30) & (ts < CUTOFF)).sum(), ((item < 15) & (ts < CUTOFF)).sum()]
    assert (found.removed[1] <= found.removed[0]).all()


def test_scores_do_not_depend_on_the_order_of_the_users() -> None:
    table, noise = world(), RemoveItems(frozenset(range(30, 40)))
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(len(table))))
    one, other = scores(table, noise), scores(shuffled, noise)
    for name, array in one.arrays().items():
        assert np.array_equal(array, other.arrays()[name]), name


def test_items_that_the_judge_does_not_rank_still_count_as_consumed() -> None:
    few = scores(world(), NoDenoising(), settings=SETTINGS.model_copy(update={"max_items": 5}))
    every = scores(world(), NoDenoising())
    assert np.array_equal(few.user, every.user)
    assert few.refit.mean() < every.refit.mean()


def measured(gains: list[np.ndarray], tail: list[int], first: int = 0) -> CutoffScores:
    users = len(gains[0])
    base = np.full(users, 0.3)
    columns = np.stack([base, *(base + gain for gain in gains)], axis=1)
    removed = np.array([[0, *[10] * len(gains)], [0, *tail]])
    return CutoffScores(
        np.arange(first, first + users, dtype=np.uint64), columns, columns, removed, np.array([1000, 100])
    )


def gains(mean: float, seed: int, users: int = 200) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.1, users)
    return np.asarray(noise - noise.mean() + mean)


def test_the_largest_gain_beyond_noise_wins() -> None:
    contest = decide([measured([gains(0.03, 0), gains(0.05, 1)], [5, 5])], TRIED, SETTINGS)
    assert contest.choice == 1
    assert contest.table["verdict"].to_pylist() == ["", BEATEN, WINS]
    rows = contest.table.to_pylist()
    assert rows[2]["gain"] == pytest.approx(0.05)
    assert rows[2]["removed_share"] == 0.01
    assert rows[2]["tail_share"] == 0.05


def test_what_is_not_beyond_noise_or_removes_the_tail_does_not_win() -> None:
    contest = decide([measured([gains(0.005, 0), gains(0.05, 1)], [5, 95])], TRIED, SETTINGS)
    assert contest.choice == NONE
    assert contest.table["verdict"].to_pylist() == [WINS, NO_GAIN, TAIL]


def test_the_interval_is_corrected_for_the_number_of_contestants() -> None:
    one = dataclasses.replace(TRIED[0])
    own = gains(0.016, 0)  # 2.3 standard errors: above 0 alone and among its likes, not among ten others
    others = [gains(0.0, seed) for seed in range(1, 10)]
    alone = decide([measured([own], [0])], [one], SETTINGS)
    likes = decide([measured([own] * 10, [0] * 10)], [one] * 10, SETTINGS)
    among = decide([measured([own, *others], [0] * 10)], [one] * 10, SETTINGS)
    assert (alone.choice, likes.choice, among.choice) == (0, 0, NONE)


def test_a_user_of_several_cutoffs_counts_once() -> None:
    gain = gains(0.016, 0)
    once = decide([measured([gain], [0])], TRIED[:1], SETTINGS).table.to_pylist()[1]
    twice = decide([measured([gain], [0]), measured([gain], [0])], TRIED[:1], SETTINGS).table.to_pylist()[1]
    assert once == twice
    others = decide([measured([gain], [0]), measured([gain], [0], 1000)], TRIED[:1], SETTINGS).table.to_pylist()[1]
    assert others["users"] == 2 * once["users"]


def test_without_cutoffs_or_users_nothing_wins() -> None:
    nowhere = decide([], TRIED, SETTINGS)
    assert (nowhere.choice, nowhere.cutoffs) == (NONE, 0)
    few = decide([measured([gains(0.5, 0, users=10)] * 2, [0, 0])], TRIED, SETTINGS)
    assert few.choice == NONE
    assert set(few.table["verdict"].to_pylist()) == {WINS, FEW}


@given(seed=st.integers(0, 10_000))
def test_pure_noise_seldom_wins_and_what_wins_gains(seed: int) -> None:
    random = np.random.default_rng(seed)
    columns = [random.normal(0, 0.1, 60) for _ in TRIED]
    contest = decide([measured(columns, [0] * len(TRIED))], TRIED, SETTINGS)
    rows = contest.table.to_pylist()
    if contest.choice == NONE:
        assert all(row["low"] <= 0 for row in rows[1:])
    else:
        assert rows[contest.choice + 1]["low"] > 0
        assert rows[contest.choice + 1]["gain"] == max(row["gain"] for row in rows[1:])
