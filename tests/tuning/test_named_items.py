"""Items with too few events to be tuned: scored by their words, without touching what was tuned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tuning_cases import ITEMS, NOW, as_table, settings, spec

from rayrec.contracts.ragged import Ragged
from rayrec.contracts.schemas import ITEM
from rayrec.instructions.templates import load_templates
from rayrec.reranking import artefact, model, vocabulary
from rayrec.reranking.artefact import LocalModel
from rayrec.reranking.base import EngineSettings, item_vectors
from rayrec.reranking.prompt import DAY_US
from rayrec.reranking.transformers_engine import TransformersEngine
from rayrec.reranking.tuning import TuningSpec, tune_here
from rayrec.reranking.tuning_loop import Worker
from rayrec.storage import Storage

COLOURS = ("red", "green", "blue", "black")
NEW = 8  # of which the last is not available


def catalogue() -> pa.Table:
    rows = range(ITEMS + NEW)
    columns: dict[str, Any] = {
        "item_id": [f"i{row:02}" for row in rows],
        "title": [f"thing {row}" for row in rows],
        "category": [COLOURS[row % 4] for row in rows],
        "description": [None] * len(rows),
        "available": [row < ITEMS + NEW - 1 for row in rows],
        "attributes": [[]] * len(rows),
    }
    return pa.table(columns, schema=ITEM)


def coloured(users: int = 150) -> pa.Table:
    """Eight old items a user, in no order."""
    rng = np.random.default_rng(0)
    item = np.argsort(rng.random((users, ITEMS)), axis=1)[:, :8]
    ts = np.cumsum(rng.integers(DAY_US // 2, 4 * DAY_US, (users, 8)), axis=1)
    return as_table(Ragged.from_lengths(item.reshape(-1), np.full(users, 8)), ts.reshape(-1))


def given(root: Path, **changes: Any) -> TuningSpec:
    asked = settings(epochs=15, forms={"search": 2.0, "contrary": 1.0}, obedience=2.0, **changes)
    return replace(spec(root, coloured(), settings=asked), catalogue=catalogue(), templates=load_templates())


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    asked = given(tmp_path_factory.mktemp("named"))
    tune_here(asked, Worker(), lambda row: None)
    return artefact.localise(Storage(asked.root), asked.path)


def test_every_available_item_has_a_token_and_the_tuned_ones_come_first(tuned: LocalModel) -> None:
    assert tuned.card.item_ids == tuple(f"i{row:02}" for row in range(ITEMS + NEW - 1))
    assert tuned.card.vocabulary.items == ITEMS + NEW - 1
    assert item_vectors(tuned).shape[0] == ITEMS + NEW - 1


def test_a_new_item_is_found_by_what_it_is_called(tuned: LocalModel) -> None:
    engine = TransformersEngine(tuned, EngineSettings())
    layout = tuned.layout("Recommend.", engine.longest)
    nobody = Ragged.from_lengths(np.empty(0, np.int64), [0])
    first = tuned.card.vocabulary.first_item
    for number, colour in enumerate(COLOURS):
        prompts = layout.prompts(nobody, nobody, NOW, tuned.reader()([colour]))
        (scores,) = engine.score([prompts[0].tolist()], [list(range(first + ITEMS, first + ITEMS + NEW - 1))])
        assert isinstance(scores, np.ndarray)
        mine = np.arange(NEW - 1) % 4 == number
        assert scores[mine].min() > scores[~mine].max()


def test_without_words_items_with_too_few_events_get_no_token(tmp_path: Path) -> None:
    asked = given(tmp_path, items_from="collaborative")
    asked = replace(asked, settings=asked.settings.model_copy(update={"epochs": 1}))
    card = tune_here(asked, Worker(), lambda row: None)
    assert card.item_ids == tuple(f"i{row:02}" for row in range(ITEMS))


def test_the_vector_of_a_new_item_is_its_weighed_words_and_what_rare_items_have_in_common(tmp_path: Path) -> None:
    tokenizer = vocabulary.scratch_tokenizer(["red green blue black"], [], ITEMS)
    known = vocabulary.vocabulary_of(tokenizer, ITEMS)
    lm = model.build(settings(), known, 20)
    word = np.arange(40, 44)
    lm.name_items(Ragged.from_lengths(word[np.arange(ITEMS) % 4], np.ones(ITEMS, np.int64)))
    unknown = 50  # no tuned item is called so
    lm.export(tmp_path, Ragged.from_lengths(np.array([40, 41, unknown, unknown]), [3, 1, 0]), np.array([2, 5]))
    own, table = lm.items.detach(), lm.causal.get_input_embeddings().weight.detach()
    rows = table[known.first_item :]
    np.testing.assert_allclose(rows[:ITEMS], own + table[torch.from_numpy(word[np.arange(ITEMS) % 4])], atol=1e-6)
    common = own[[2, 5]].mean(0)
    np.testing.assert_allclose(rows[ITEMS], common + (table[40] + table[41]) / 2**0.5, atol=1e-6)
    np.testing.assert_allclose(rows[ITEMS + 1], common, atol=1e-6)
    np.testing.assert_allclose(rows[ITEMS + 2], common, atol=1e-6)
