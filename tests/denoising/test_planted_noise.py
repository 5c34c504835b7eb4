"""The denoising benchmark: noise injection, detection and ranking metrics."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from benchmarks import denoise_detect as detect
from benchmarks import denoise_rank as rank
from benchmarks.denoise_llm import FixedSteps, PromptEncoder
from benchmarks.denoise_planting import KINDS, Clean, insert, planted_items
from rayrec.config import Tuning
from rayrec.data.schemas import HISTORY
from rayrec.denoising.denoiser import histories_of
from rayrec.evaluation.metrics import RelevantItems, user_metrics
from rayrec.numerics.collectives import Worker
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.training.tuning_examples import Sequences
from rayrec.reranking.training.tuning_loop import TuningLoop, TuningTask

ITEMS, MOMENT = 60, 10**9


def clean_histories(seed: int, users: int = 80) -> tuple[pa.Table, Clean, np.ndarray]:
    """HISTORY of two tastes, even and odd items, popular ones more often; some events are returns."""
    random = np.random.default_rng(seed)
    chance = 1 / np.arange(1, ITEMS // 2 + 1)
    rows = [
        2 * random.choice(ITEMS // 2, size, replace=False, p=chance / chance.sum()) + user % 2
        for user, size in enumerate(random.integers(4, 16, users))
    ]
    item = Ragged.from_lengths(np.concatenate(rows).astype(np.int32), [len(row) for row in rows])
    total = len(item.values)
    ts = np.concatenate([np.sort(random.integers(0, MOMENT // 1000, len(row))) * 1000 for row in rows])
    event = (random.random(total) < 0.1).astype(np.int8)
    table = pa.table(
        [
            pa.array([f"u{user}" for user in range(users)]),
            item.to_arrow(pa.int32()),
            item.like(ts).to_arrow(pa.int64()),
            item.like(event).to_arrow(pa.int8()),
            item.like(random.integers(1, 11, total).astype(np.float32)).to_arrow(pa.float32()),
            item.like(random.integers(0, 9999, total).astype(np.int32)).to_arrow(pa.int32()),
            pa.array([[]] * users, pa.list_(pa.int32())),
        ],
        schema=HISTORY,
    )
    wanted = Ragged.from_lengths(random.integers(0, ITEMS, users).astype(np.int32), np.ones(users, np.int64))
    return table, Clean(item, event == 0, wanted, ITEMS), np.full(users, MOMENT)


def planted(kind: str, seed: int, share: float = 0.2) -> tuple[pa.Table, pa.Table, np.ndarray, Clean]:
    """(clean, noisy, mask of the noise, the histories it was injected into)"""
    table, clean, user_cutoffs = clean_histories(seed)
    random = np.random.default_rng([seed, 1])
    noise = planted_items(clean, kind, share, random)
    return table, *insert(table, clean.positive, user_cutoffs, noise, random), clean


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_removing_the_injected_noise_restores_the_clean_history(kind: str, seed: int) -> None:
    table, noisy, noise, _ = planted(kind, seed)
    for name in HISTORY.names[1:]:
        column = Ragged.from_arrow(noisy[name])
        own = column if name == "older_items" else column.filter(~noise)
        assert own.to_arrow(HISTORY.field(name).type.value_type).equals(table[name].combine_chunks())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_injected_items_are_new_distinct_and_not_held_out(kind: str, seed: int) -> None:
    _, noisy, noise, clean = planted(kind, seed)
    item = Ragged.from_arrow(noisy["item"])
    cells = (item.rows * ITEMS + item.values)[noise]
    assert len(np.unique(cells)) == len(cells)
    assert not np.isin(cells, clean.forbidden).any()


@pytest.mark.parametrize("kind", KINDS)
def test_injected_events_are_in_time_order_and_resemble_the_users_own(kind: str) -> None:
    table, noisy, noise, clean = planted(kind, 3)
    ts = Ragged.from_arrow(noisy["ts"])
    within = ts.rows[1:] == ts.rows[:-1]
    assert (np.diff(ts.values)[within] >= 0).all()
    assert (ts.values < MOMENT).all()
    assert (Ragged.from_arrow(noisy["event"]).values[noise] == 0).all()
    for name in ("value", "dwell_ms"):
        own, after = Ragged.from_arrow(table[name]), Ragged.from_arrow(noisy[name])
        for user in range(len(own)):
            assert set(after[user]) <= set(own[user])
    counts = np.bincount(clean.item.rows[clean.positive], minlength=len(ts)) * 0.25
    got = np.bincount(ts.rows[noise], minlength=len(ts))
    assert (got >= np.floor(counts)).all()
    assert (got <= np.ceil(counts)).all()


def test_popularity_detects_uniform_noise_and_not_popularity_matched_noise() -> None:
    found = {}
    for kind in ("uniform", "popularity"):
        values = []
        for seed in range(8):
            _, noisy, noise, clean = planted(kind, seed)
            item = Ragged.from_arrow(noisy["item"])
            counts = np.bincount(item.values, minlength=clean.items)[item.values].astype(np.float64)
            values.append(detect.found(-counts, noise, item.rows)["auc"])
        found[kind] = np.mean(values)
    assert found["uniform"] > 0.65
    assert found["popularity"] < 0.55


def test_swapped_events_belong_to_another_taste() -> None:
    _, noisy, noise, _ = planted("taste-swap", 5)
    item = Ragged.from_arrow(noisy["item"])
    other = item.values[noise] % 2 != item.rows[noise] % 2
    assert other.mean() > 0.8


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), max_size=7), min_size=1, max_size=6))
def test_ranks_within_users_are_the_mean_ranks_of_ties(rows: list[list[int]]) -> None:
    ragged = Ragged.from_lengths(np.array([v for row in rows for v in row], np.float64), [len(row) for row in rows])
    found = detect.rank_within(ragged.values, ragged.rows)
    expected = [(rank - 0.5) / len(row) for row in rows if row for rank in rankdata(row)]
    assert found == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_auc_counts_pairs(events: list[tuple[int, bool]]) -> None:
    score, noise = np.array([s for s, _ in events], np.float64), np.array([n for _, n in events])
    pairs = [np.sign(a - b) / 2 + 0.5 for a in score[noise] for b in score[~noise]]
    if pairs:
        assert detect.auc(score, noise) == pytest.approx(np.mean(pairs))
    else:
        assert np.isnan(detect.auc(score, noise))


def test_the_requested_number_of_events_is_removed_per_user_lowest_first() -> None:
    item = Ragged.from_lengths(np.arange(9, dtype=np.int32), [4, 0, 5])
    keep = detect.lowest_first(np.array([2, 0, 1]), np.array([3.0, 1, 2, 9, 5, 4, 8, 7, 6]), item)
    assert keep.tolist() == [1, 0, 0, 1, 1, 0, 1, 1, 1]


def test_rankings_are_evaluated_as_in_the_daily_job() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(40, ITEMS)).astype(np.float32)
    seen = sp.csr_matrix(random.random((40, ITEMS)) < 0.2)
    lengths = random.integers(0, 14, 40)
    wanted = Ragged.from_lengths(
        np.concatenate([np.sort(random.choice(ITEMS, size, replace=False)) for size in lengths]), lengths
    )
    found = rank.ranking_metrics(lambda users: scores[users], seen, wanted)
    ids = pa.array([f"i{code:03d}" for code in range(ITEMS)])
    ranked = np.argsort(np.where(seen.toarray(), np.inf, -scores), axis=1, kind="stable")
    rows = [
        (f"u{user:02d}", place + 1, ids[int(code)].as_py())
        for user in range(40)
        for place, code in enumerate(ranked[user, : ITEMS - seen[user].nnz])
    ]
    slates = pa.table(
        {
            name: list(column)
            for name, column in zip(("user_id", "rank", "item_id"), zip(*rows, strict=True), strict=True)
        }
    )
    users = pa.array([f"u{user:02d}" for user in range(40)])
    truth = RelevantItems.from_pairs(users.take(pa.array(wanted.rows)), ids.take(pa.array(wanted.values)), ids)
    expected = user_metrics("random", slates, truth).values
    assert found["ndcg@10"] == pytest.approx(expected["ndcg@10"])
    assert (found["recall@20"] >= expected["recall@10"]).all()
    assert (found["recall@20"] <= expected["recall@50"]).all()


def test_fixed_steps_of_whole_epochs_equal_the_daily_tuning() -> None:
    table, clean, user_cutoffs = clean_histories(0, users=30)
    histories = histories_of(table, (1.0, -1.0))
    retained = rank.RetainedEvents.of(histories, np.ones(len(clean.positive), np.float32), ITEMS)
    catalogue = pa.table({"item_id": [str(n) for n in range(ITEMS)], "title": [f"Item {n}" for n in range(ITEMS)]})
    tuning = Tuning(layers=1, epochs=2, min_item_events=1, batch_tokens=512)
    encoder = PromptEncoder.of(catalogue, clean.counts, "What next?", tuning, user_cutoffs)
    columns = {"item": retained.item.to_arrow(pa.int32()), "ts": retained.ts.to_arrow(pa.int64())}
    rows = pa.table({**columns, "keep_weight": retained.keep_weight.to_arrow(pa.float32())})
    task = TuningTask(Sequences.from_tables([rows], encoder.index, MOMENT), None, MOMENT, tuning)
    daily = TuningLoop(encoder.blank(), encoder.layout, task, Worker())
    daily.run(lambda loop: None)
    ours = FixedSteps(encoder.blank(), encoder.layout, task, Worker())
    ours.take_steps(daily.progress.step)
    assert ours.progress.step == daily.progress.step > 2
    for name, tensor in daily.model.trainable_parameters().items():
        assert np.array_equal(tensor.detach().numpy(), ours.model.trainable_parameters()[name].detach().numpy()), name
