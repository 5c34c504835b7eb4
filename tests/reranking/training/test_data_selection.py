"""Training-data selection: budgets, order independence, planted users, and the gradients of the influence method."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tuning_cases import INSTRUCTION, ITEMS, NOW, as_table, pairs_shop, run, settings, spec, write_shard

from rayrec.config import Tuning
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.errors import DataError
from rayrec.numerics.collectives import Worker
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.item_token import item_lm, item_vocabulary
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.training.data_selection import (
    SELECTION_METHODS,
    DataSelection,
    SelectionPool,
    latest_users,
    select_users,
)
from rayrec.reranking.training.data_selection.influential_users import (
    cosines,
    mean_gradient,
    newest_event_examples,
    output_gradient,
    user_gradients,
    warm_up_model,
)
from rayrec.reranking.training.data_selection.selection_pool import event_group_counts, take_users
from rayrec.reranking.training.data_selection.user_sampling import apportion, cluster_users, stratified_sample
from rayrec.reranking.training.tuning_examples import Sequences, batches, collate
from rayrec.reranking.training.tuning_loop import TuningLoop, TuningTask
from rayrec.storage import Storage

NAMES = sorted(SELECTION_METHODS)


@pytest.fixture(scope="module")
def layout() -> PromptLayout:
    tokenizer = item_vocabulary.scratch_tokenizer([INSTRUCTION], [f"item {code:02}" for code in range(ITEMS)], ITEMS)
    vocab = item_vocabulary.vocabulary_from_tokenizer(tokenizer, ITEMS)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        tokenizer_json = Path(folder) / "tokenizer.json"
        words = tuple(item_vocabulary.WordTokenizer(tokenizer_json, vocab)([INSTRUCTION]).values.tolist())
    return PromptLayout(vocab, words, 10, len(words) + 2 + 2 * 10)


def starting(given: Tuning, layout: PromptLayout, factors: Any = None) -> Callable[[], ItemLM]:
    def fresh() -> ItemLM:
        lm = item_lm.build(given, layout.vocabulary, layout.tokens)
        if factors is not None:
            lm.init_item_vectors(lm.project_factors(factors))
        return lm

    return fresh


def sequences(*tables: pa.Table) -> Sequences:
    return Sequences.from_tables(tables, np.arange(ITEMS), 10 * NOW)


def half_random(users: int) -> tuple[Sequences, Any]:
    """Ten events each: every other user consumes five pairs of items, the others random ones; and which users have
    pairs, [users]."""
    rng = np.random.default_rng(5)
    first = np.argsort(rng.random((users, ITEMS // 2)), axis=1)[:, :5] * 2
    pairs = np.stack([first, first + 1], axis=2).reshape(users, 10)
    good = np.arange(users) % 2 == 0
    anything = np.argsort(rng.random((users, ITEMS)), axis=1)[:, :10]
    ts = np.cumsum(rng.integers(MICROSECONDS_PER_DAY, 4 * MICROSECONDS_PER_DAY, (users, 10)), axis=1)
    item = Ragged.from_lengths(np.where(good[:, None], pairs, anything).reshape(-1), np.full(users, 10))
    return sequences(as_table(item, ts.reshape(-1))), good


def pool_of(
    events: Sequences, layout: PromptLayout, validation: Any = None, factors: Any = None, **changes: Any
) -> SelectionPool:
    given = settings(**changes)
    rows = latest_users(events) if validation is None else validation
    return SelectionPool(events, rows, starting(given, layout, factors), layout, given, 10 * NOW)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [0.001, 0.1, 0.33, 0.9])
def test_selection_has_exactly_the_budgeted_users(layout: PromptLayout, name: str, budget: float) -> None:
    events = sequences(pairs_shop(61), as_table(Ragged.from_lengths(np.arange(4), [1, 3]), [1, 2, 2, 2]))
    given = settings(data_selection=name, selection_budget=budget, epochs=1)
    choice = select_users(events, starting(given, layout), layout, given, 10 * NOW)
    assert choice.weights.shape == (63,)
    assert choice.weights.dtype == np.float32
    assert not choice.weights[61:].any()  # two users with one group of events each give no targets
    assert choice.users == max(1, round(budget * 61))
    assert choice.weights.sum() == pytest.approx(choice.users)
    assert choice.as_json() == {"method": name, "budget": budget, "users": choice.users, "of": 61}


@pytest.mark.parametrize("name", NAMES)
def test_selection_is_deterministic_and_may_change_with_the_seed(layout: PromptLayout, name: str) -> None:
    events = sequences(pairs_shop(60))
    one, two = (SELECTION_METHODS[name](pool_of(events, layout, epochs=2), 12) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    if name != "similar":  # the only method without random numbers
        assert not np.array_equal(one, SELECTION_METHODS[name](pool_of(events, layout, epochs=2, seed=1), 12))


@pytest.mark.parametrize("name", NAMES)
def test_model_does_not_depend_on_shards_or_their_order(tmp_path: Path, name: str) -> None:
    whole = pairs_shop(60)
    shuffled = whole.take(np.random.default_rng(0).permutation(60))
    given = settings(data_selection=name, selection_budget=0.25, epochs=1)
    one = run(spec(tmp_path / "a", whole, settings=given))
    sharded = spec(tmp_path / "b", shuffled, settings=given, sequences=("0.arrow", "1.arrow"))
    for number, part in enumerate((shuffled.slice(0, 20), shuffled.slice(20))):
        write_shard(Storage(sharded.root), f"{number}.arrow", part)
    two = run(sharded)
    assert one.curve == two.curve
    assert one.data_selection == two.data_selection == {"method": name, "budget": 0.25, "users": 15, "of": 60}


def test_model_is_tuned_on_the_selected_users_alone(tmp_path: Path) -> None:
    table = pairs_shop(80)
    given = settings(data_selection="random", selection_budget=0.3, epochs=1)
    one = run(spec(tmp_path / "a", table, settings=given))
    pool = SelectionPool(sequences(table), np.arange(0), lambda: None, None, given, NOW)  # type: ignore[arg-type]
    chosen = np.flatnonzero(SELECTION_METHODS["random"](pool, 24))
    two = run(spec(tmp_path / "b", table.take(chosen), settings=settings(epochs=1)))
    assert one.vocabulary.items == ITEMS  # items keep their tokens for any selection
    assert one.curve[0]["tokens"] == two.curve[0]["tokens"]
    assert one.curve[0]["loss"] == pytest.approx(two.curve[0]["loss"], rel=1e-6)


def test_influence_selects_users_like_the_validation_users(layout: PromptLayout) -> None:
    events, good = half_random(600)
    judges = np.flatnonzero(good)[::4]
    chosen = SELECTION_METHODS["influence"](pool_of(events, layout, judges, epochs=8), 150) > 0
    others = np.setdiff1d(np.arange(600), judges)
    assert good[chosen].mean() >= 0.85
    assert good[others][chosen[others]].mean() >= 0.85  # not only the validation users themselves
    by_items = SELECTION_METHODS["similar"](pool_of(events, layout, judges), 150) > 0
    assert good[by_items].mean() < 0.7  # both halves consume the same items


def test_similar_selects_users_who_consumed_what_validation_users_consumed_last(layout: PromptLayout) -> None:
    turned = (np.arange(4) + np.arange(80)[:, None]) % 4 + 4 * (np.arange(80)[:, None] >= 40)
    item = Ragged.from_lengths(turned.reshape(-1), np.full(80, 4))
    events = sequences(as_table(item, np.tile(np.arange(4) * MICROSECONDS_PER_DAY, 80)))
    weights = SELECTION_METHODS["similar"](pool_of(events, layout, np.arange(40, 44)), 40)
    np.testing.assert_array_equal(np.flatnonzero(weights), np.arange(40, 80))


def test_newest_groups_are_used_only_as_validation_targets(layout: PromptLayout) -> None:
    item = Ragged.from_lengths(np.array([0, 1, 2, 3, 4, 5, 6, 7]), [4, 4])
    events = sequences(as_table(item, np.array([1, 2, 3, 4, 1, 2, 3, 3]) * MICROSECONDS_PER_DAY))
    pool = pool_of(events, layout, np.array([1]))
    assert [pool.past.item[row].tolist() for row in range(2)] == [[0, 1, 2], [4, 5]]
    assert pool.validation_targets.target.values.tolist() == [6, 7]
    first = layout.vocabulary.first_item
    assert [token - first for token in pool.validation_targets.tokens[0] if token >= first] == [4, 5]


def test_validation_users_acted_last_and_have_three_groups() -> None:
    ts = [1, 2, 3, 1, 9, 4, 5, 6, 7, 8, 8]
    events = sequences(as_table(Ragged.from_lengths(np.arange(11), [3, 2, 3, 3]), ts))
    assert event_group_counts(events).tolist() == [3, 2, 3, 2]
    assert latest_users(events).tolist() == [0, 2]


def test_diverse_retains_the_weight_of_every_cluster(layout: PromptLayout) -> None:
    rng = np.random.default_rng(0)
    taste = np.repeat([0, 1, 2], [70, 25, 5])
    items = np.stack([rng.permutation(8)[:4] + 8 * one for one in taste]).reshape(-1)
    events = sequences(as_table(Ragged.from_lengths(items, np.full(100, 4)), np.tile(np.arange(4), 100)))
    factors = np.repeat(np.eye(3), 8, axis=0) + 0.05 * rng.normal(size=(ITEMS, 3))
    pool = pool_of(events, layout, factors=factors.astype(np.float32))
    label = cluster_users(pool, 3)
    assert len(np.unique(np.stack([taste, label]), axis=1).T) == 3  # the tastes, with permuted labels
    weights = SELECTION_METHODS["diverse"](pool, 12)
    np.testing.assert_allclose(np.bincount(taste, weights) / weights.sum(), [0.7, 0.25, 0.05], rtol=1e-5)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.data())
def test_strata_retain_their_shares_at_any_budget(labels: list[int], data: st.DataObject) -> None:
    label = np.array(labels)
    count = data.draw(st.integers(len(set(labels)), len(labels)))
    weights = stratified_sample(label, count, np.random.default_rng(0))
    assert np.count_nonzero(weights) == count
    np.testing.assert_allclose(
        np.bincount(label, weights) / count, np.bincount(label) / len(label), rtol=1e-5, atol=1e-7
    )


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.data())
def test_apportionment_is_exact_and_within_one_of_proportion(sizes: list[int], data: st.DataObject) -> None:
    seats = data.draw(st.integers(0, sum(sizes)))
    found = apportion(seats, np.array(sizes))
    assert found.sum() == seats
    assert (found <= sizes).all()
    assert (np.abs(found - seats * np.array(sizes) / max(1, sum(sizes))) < 1).all()


def test_user_gradients_match_autograd_for_each_user_alone(layout: PromptLayout) -> None:
    pool = pool_of(sequences(pairs_shop(7)), layout, layers=2, width=64, heads=2)
    lm = pool.initial_model()
    _, examples = newest_event_examples(pool)
    loop = TuningLoop(lm, layout, TuningTask(pool.past, None, pool.now, pool.settings), Worker())
    found = dict(user_gradients(lm, examples, 100))
    assert sorted(found) == list(range(7))
    for row, gradient in found.items():
        batch = collate(examples, np.array([row]), layout.vocabulary.pad)
        vectors = lm.vectors().detach()
        predicted = vectors.clone().requires_grad_()  # `vectors` as input, these as the output layer
        sum(loop._loss.loss_chunks(loop._query_states(batch, vectors).detach(), predicted, batch)).backward()
        torch.testing.assert_close(gradient, predicted.grad, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 9))
def test_output_gradient_matches_autograd(seed: int, queries: int, targets: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    states = torch.randn(queries, 6, generator=rng, dtype=torch.float32)
    vectors = torch.randn(11, 6, generator=rng, requires_grad=True)
    target, query = (torch.randint(most, (targets,), generator=rng) for most in (11, queries))
    weight = torch.rand(targets, generator=rng)
    losses = -torch.log_softmax(states @ vectors.T, 1)[query, target]
    (losses * weight).sum().backward()
    found = output_gradient(states, vectors.detach(), target, query, weight)
    torch.testing.assert_close(found, vectors.grad, rtol=1e-4, atol=1e-5)


def test_influence_scores_do_not_depend_on_the_batch(layout: PromptLayout) -> None:
    pool = pool_of(sequences(pairs_shop(50)), layout, epochs=2)
    lm, scale = warm_up_model(pool)
    users, examples = newest_event_examples(pool)
    found = [
        cosines(lm, examples, mean_gradient(lm, pool.validation_targets, size), scale, size)
        for size in (64, 300, 10**6)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)
        np.testing.assert_array_equal(np.argsort(-other)[:12], np.argsort(-found[0])[:12])
    assert len(users) == 50
    assert len(batches(examples, 64, None)) > len(batches(examples, 300, None)) > 1


def test_gradient_has_cosine_one_with_itself_and_minus_one_with_its_opposite(layout: PromptLayout) -> None:
    pool = pool_of(take_users(sequences(pairs_shop(9)), np.array([3])), layout)
    lm = pool.initial_model()
    _, examples = newest_event_examples(pool)
    own, scale = mean_gradient(lm, examples, 1000), torch.ones(ITEMS, lm.width)
    assert cosines(lm, examples, own, scale, 1000) == pytest.approx(1, abs=1e-5)
    assert cosines(lm, examples, -own, scale, 1000) == pytest.approx(-1, abs=1e-5)
    apart = torch.where(torch.arange(ITEMS)[:, None] < ITEMS // 2, 1.0, 0.0) * scale
    assert cosines(lm, examples, own * (1 - apart), apart, 1000) == pytest.approx(0, abs=1e-5)


def test_warm_up_excludes_the_newest_groups(layout: PromptLayout) -> None:
    table = pairs_shop(30)
    item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"])
    last = ts.values == ts.values[ts.offsets[1:] - 1][ts.rows]
    other = item.like(np.where(last, (item.values + 7) % ITEMS, item.values))
    models = [
        warm_up_model(pool_of(sequences(one), layout, np.arange(30), epochs=1))[0]
        for one in (table, as_table(other, ts.values))
    ]
    for left, right in zip(*(lm.parameters() for lm in models), strict=True):
        assert torch.equal(left, right)


def test_selected_events_carry_their_weights() -> None:
    events = sequences(pairs_shop(4))
    chosen = DataSelection("diverse", 0.5, np.array([0, 0.5, 0, 1.5], np.float32), 4).select_events(events)
    assert len(chosen) == 2
    np.testing.assert_array_equal(chosen.item.values, events.item.take(np.array([1, 3])).values)
    np.testing.assert_array_equal(chosen.weight.values, np.repeat([0.5, 1.5], 6).astype(np.float32))


@pytest.mark.parametrize(
    ("name", "users", "says"),
    [*((name, [1, 1, 1, 1], "two groups") for name in NAMES), ("similar", [2, 2], "validation user")],
)
def test_unselectable_users_are_refused(layout: PromptLayout, name: str, users: list[int], says: str) -> None:
    given = settings(data_selection=name, selection_budget=0.5)
    events = sequences(as_table(Ragged.from_lengths(np.arange(4), users), [0, 1, 2, 3]))
    with pytest.raises(DataError, match=says):
        select_users(events, starting(given, layout), layout, given, NOW)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"selection_budget": 0.5}, "needs a tuning.data_selection"),
        ({"data_selection": "influence"}, "needs a tuning.selection_budget"),
        ({"data_selection": "random", "selection_budget": 0.0}, "greater than 0"),
        ({"data_selection": "random", "selection_budget": 1.5}, "less than or equal to 1"),
        ({"data_selection": "nearest", "selection_budget": 0.5}, "diverse, influence, random, similar"),
    ],
)
def test_settings_without_a_selection_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Tuning.model_validate(changes)
