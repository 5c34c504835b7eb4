"""Items with too few events for an own vector: scored by their words and a shared part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_tables import item_table
from tuning_cases import ITEMS, NOW, as_table, fetch, run, settings, spec

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.instructions.templates import load_templates
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.item_token import item_lm, item_vocabulary
from rayrec.reranking.item_token.item_head import ItemHead, item_vectors
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint
from rayrec.reranking.training import tuning_loss, tuning_preparation
from rayrec.reranking.training.tuning_examples import Batch, item_counts
from rayrec.reranking.training.tuning_loss import ItemLoss, SampledItems
from rayrec.reranking.training.tuning_preparation import TuningSpec

COLOURS = ("red", "green", "blue", "black")
NEW = 9  # the last of them is not available
POPULAR = 8  # the first items, two of each colour


def catalogue() -> pa.Table:
    rows = range(ITEMS + NEW)
    return item_table(
        item_id=[f"i{row:02}" for row in rows],
        title=[f"thing {row}" for row in rows],
        category=[COLOURS[row % 4] for row in rows],
        available=[row < ITEMS + NEW - 1 for row in rows],
    )


def coloured(users: int = 150) -> pa.Table:
    """Eight old items a user, mostly popular ones, in random order."""
    rng = np.random.default_rng(0)
    weight = np.where(np.arange(ITEMS) < POPULAR, 8.0, 1.0)
    key = np.log(weight) + rng.gumbel(size=(users, ITEMS))
    item = rng.permuted(np.argsort(-key, axis=1)[:, :8], axis=1)
    ts = np.cumsum(rng.integers(MICROSECONDS_PER_DAY // 2, 4 * MICROSECONDS_PER_DAY, (users, 8)), axis=1)
    return as_table(Ragged.from_lengths(item.reshape(-1), np.full(users, 8)), ts.reshape(-1))


def given(root: Path, **changes: Any) -> TuningSpec:
    tuning = settings(**{"epochs": 15, "task_mix": {"search": 2.0, "contrary": 1.0}, **changes})
    return replace(spec(root, coloured(), settings=tuning), catalogue=catalogue(), templates=load_templates())


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> LocalCheckpoint:
    new = given(tmp_path_factory.mktemp("new"))
    run(new)
    return fetch(new)


def test_available_items_have_a_token_and_tuned_ones_come_first(tuned: LocalCheckpoint) -> None:
    assert tuned.card.item_ids == tuple(f"i{row:02}" for row in range(ITEMS + NEW - 1))
    assert tuned.card.vocabulary.items == ITEMS + NEW - 1
    assert item_vectors(tuned).shape[0] == ITEMS + NEW - 1


@pytest.mark.parametrize("colour", COLOURS)
def test_new_item_is_found_by_its_words_and_ranks_below_popular_ones(tuned: LocalCheckpoint, colour: str) -> None:
    engine = TransformersRunner(tuned.model_files, "hidden_state", EngineSettings())
    layout = tuned.layout("Recommend.", engine.max_prompt_tokens)
    nobody = Ragged.from_lengths(np.empty(0, np.int64), [0])
    prompts = layout.prompts(nobody, nobody, NOW, tuned.word_tokenizer(engine.max_prompt_tokens)([colour]))
    items = np.arange(ITEMS + NEW - 1)
    states = engine.last_hidden_states([prompts[0].tolist()])
    (scores,) = ItemHead.of(tuned).score(states, [(tuned.card.vocabulary.first_item + items).tolist()])
    assert isinstance(scores, np.ndarray)
    mine, new = items % 4 == COLOURS.index(colour), items >= ITEMS
    assert scores[mine & new].min() > scores[~mine & new].max()
    assert scores[mine & new].max() < scores[mine & (items < POPULAR)].min()


def test_without_words_items_with_too_few_events_get_no_token(tmp_path: Path) -> None:
    card = run(given(tmp_path, item_init="collaborative", epochs=1))
    assert card.item_ids == tuple(f"i{row:02}" for row in range(ITEMS))


def model_with_words() -> ItemLM:
    """A new model of items with one of four facets, and titles with one common word and one that half of them have; 6
    are new."""
    tokenizer = item_vocabulary.scratch_tokenizer(["red green blue black"], [], ITEMS)
    lm = item_lm.build(settings(), item_vocabulary.vocabulary_from_tokenizer(tokenizer, ITEMS), 20, ITEMS - 6)
    rows, one = np.arange(ITEMS), np.ones(ITEMS, np.int64)
    facets = Ragged.from_lengths(40 + rows % 4, one)
    titles = Ragged.from_lengths(np.full(ITEMS, 50), one).joined(Ragged.from_lengths(np.full(ITEMS // 2, 51), rows % 2))
    lm.set_item_words(facets, titles)
    with torch.no_grad():
        assert lm.new is not None
        lm.new.copy_(torch.randn(lm.width))
    return lm


def test_item_vector_is_facets_weighted_title_words_and_own_or_shared_part(tmp_path: Path) -> None:
    lm = model_with_words()
    vectors = lm.vectors().detach()
    lm.export(tmp_path)
    table = lm.causal.get_input_embeddings().weight.detach()
    np.testing.assert_allclose(table[lm.vocabulary.first_item :], vectors)
    every, half = (np.log((ITEMS + 1) / count) for count in (ITEMS, ITEMS // 2))
    both = (every * table[50] + half * table[51]) / np.hypot(every, half)
    assert lm.new is not None
    own = torch.cat([lm.items, lm.new.expand(6, -1)]).detach()
    for row in range(ITEMS):
        expected = own[row] + table[40 + row % 4] + (both if row % 2 else table[50])
        np.testing.assert_allclose(vectors[row], expected, atol=1e-6)


def test_sample_of_all_items_is_all_items() -> None:
    assert SampledItems.sample(10, 500, np.random.default_rng(0)).item.tolist() == list(range(500))
    large = SampledItems.sample(100, 5000, np.random.default_rng(0))
    assert large.item[:100].tolist() == list(range(100))
    assert len(large.item) == 1100
    assert large.importance_weight.sum() == pytest.approx(5000)
    assert large.place[large.item].tolist() == list(range(1100))
    assert (large.place >= 0).sum() == 1100


def test_a_sample_of_many_own_items_has_all_targets_and_counts_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_loss, "_MAX_TUNED", 40)
    targets = np.array([7, 199, 7, 250, 3])  # 250 is a new item
    sampled = SampledItems.sample(200, 5000, np.random.default_rng(0), targets)
    own = sampled.item < 200
    assert own.sum() == 40
    assert (np.diff(sampled.item) > 0).all()
    assert (sampled.importance_weight[sampled.place[[7, 199, 3]]] == 1).all()
    assert sampled.importance_weight[own].sum() == pytest.approx(200)
    assert sampled.importance_weight.sum() == pytest.approx(5000)
    every = SampledItems.sample(30, 900, np.random.default_rng(0), targets[:1])
    assert every.item.tolist() == list(range(900))


def test_a_sampled_sum_of_own_items_averages_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_loss, "_MAX_TUNED", 60)
    rng = np.random.default_rng(0)
    odds, targets = rng.random(400), np.array([1, 2, 390])
    samples = [SampledItems.sample(400, 400, np.random.default_rng(seed), targets) for seed in range(400)]
    found = [float((odds[one.item] * one.importance_weight).sum()) for one in samples]
    assert abs(np.mean(found) - odds.sum()) < 4 * np.std(found) / len(found) ** 0.5
    assert np.std(found) > 0


def test_the_items_with_the_most_events_have_a_vector(tmp_path: Path) -> None:
    table, whole = coloured(), given(tmp_path)
    everything = tuning_preparation._tuned_codes(whole, [table])
    codes = tuning_preparation._tuned_codes(given(tmp_path, max_items=4), [table])
    counts = item_counts([table], len(whole.catalogue), whole.now)
    assert len(everything) > len(codes) == 4
    assert (np.diff(codes) > 0).all()
    assert counts[codes].min() >= np.delete(counts[everything], np.searchsorted(everything, codes)).max()


def test_sampled_loss_averages_to_the_full_loss() -> None:
    tuned, items, queries = 200, 4000, 6
    rng = np.random.default_rng(0)
    states, vectors = (torch.from_numpy(rng.normal(size=(n, 4)).astype(np.float32) / 4) for n in (queries, items))
    having = torch.from_numpy(rng.random((3, items)) < 0.3)
    having[0, [5, 300, 3000]] = True
    at = np.arange(queries)
    requests = np.array([[0, -1, -1]] * 3 + [[-1, -1, -1]] * 3)
    target = np.array([5, 300, 3000, 7, 399, 3999])
    batch = Batch(np.zeros((1, 1), np.int64), at, at, target, at, np.ones(queries, np.float32), requests)
    loss = ItemLoss(having)
    whole = float(sum(loss.loss_chunks(states, vectors, batch, instruction_loss_weight=2.0)))
    samples = [SampledItems.sample(tuned, items, np.random.default_rng(seed)) for seed in range(300)]
    found = [float(sum(loss.loss_chunks(states, vectors, batch, sampled, 2.0))) for sampled in samples]
    assert abs(np.mean(found) - whole) < 4 * np.std(found) / len(found) ** 0.5
    assert np.std(found) > 0


def test_too_many_new_items_are_sampled_independently_of_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(items: range) -> set[str]:
        ids = [f"i{row:04}" for row in items]
        stock = pa.table({"item_id": ids, "available": [row % 10 > 0 for row in items]})
        new = tuning_preparation._new_codes(replace(given(tmp_path), catalogue=stock), np.arange(5))
        assert (np.diff(new) > 0).all()
        return {ids[code] for code in new}

    everything = chosen(range(400))
    monkeypatch.setattr(tuning_preparation, "_MAX_NEW_ITEMS", 100)
    some = chosen(range(400))
    assert len(some) == 100
    assert some < everything
    assert 35 < len([name for name in some if name >= "i0200"]) < 65
    earlier = chosen(range(300))
    assert {name for name in some if name < "i0300"} <= earlier  # new arrivals displace few
