"""The task turned round: what is said is learned as any language model learns, beside the items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM
from tuning_cases import INSTRUCTION, ITEMS, pairs_shop, settings, spec

from rayrec.data.schemas import ITEM
from rayrec.instructions.templates import load_templates
from rayrec.numerics.collectives import Worker
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.training.tuning import tune_on_worker
from rayrec.reranking.training.tuning_data import Batch
from rayrec.reranking.training.tuning_loss import text_loss_chunks
from rayrec.storage import Storage

COLOURS = ("red", "green", "blue")


def catalogue() -> pa.Table:
    columns: dict[str, Any] = {
        "item_id": [f"i{row:02}" for row in range(ITEMS)],
        "title": ["thing"] * ITEMS,
        "category": [COLOURS[row % 3] for row in range(ITEMS)],
        "description": [None] * ITEMS,
        "available": [True] * ITEMS,
        "attributes": [[]] * ITEMS,
    }
    return pa.table(columns, schema=ITEM)


def test_the_loss_of_words_is_cross_entropy_each_row_weighing_one() -> None:
    rng = torch.Generator().manual_seed(0)
    states, table = torch.randn(5, 4, generator=rng), torch.randn(9, 4, generator=rng)
    said, weight = np.array([3, 1, 4, 1, 5]), np.array([0.5, 0.5, 1 / 3, 1 / 3, 1 / 3], np.float32)
    none = np.empty(0, np.int64)
    batch = Batch(none, none, none, none, none, none.astype(np.float32), none, none, said, weight)
    probability = torch.softmax(states @ table.T, 1)[torch.arange(5), torch.from_numpy(said)]
    expected = -(torch.from_numpy(weight) * probability.log()).sum()
    torch.testing.assert_close(sum(text_loss_chunks(states, table, batch)), expected)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuned_checkpoint.LocalCheckpoint:
    root = tmp_path_factory.mktemp("turned")
    given = settings(epochs=20, width=64, heads=2, layers=2, task_mix={"turned": 4.0})
    asked = replace(spec(root, pairs_shop(), settings=given), catalogue=catalogue(), templates=load_templates())
    tune_on_worker(asked, Worker(), lambda row: None)
    return tuned_checkpoint.fetch_checkpoint(Storage(asked.root), asked.path)


def test_a_tuned_model_says_what_would_have_been_asked_for(tuned: tuned_checkpoint.LocalCheckpoint) -> None:
    """After a history and an item it says, of all words, those of a request for the item's colour."""
    model = AutoModelForCausalLM.from_pretrained(tuned.folder)
    vocabulary = tuned.card.vocabulary
    layout = tuned.layout(INSTRUCTION, 64)
    read = tuned.word_tokenizer(64)
    names = [read([colour])[0].tolist() for colour in COLOURS]
    assert all(len(name) == 1 for name in names)
    first = [name[0] for name in names]
    right = 0
    for item in range(ITEMS):
        history = [vocabulary.first_item + (item ^ 1), vocabulary.first_gap + 3]
        tokens = [*layout.prefix, *history, vocabulary.first_item + item]
        out = []
        for _ in range(6):
            with torch.no_grad():
                logits = model(torch.tensor([[*tokens, *out]])).logits[0, -1]
            out.append(int(logits[: vocabulary.user].argmax()))
        told = [token for token in out if token in first]
        right += bool(told) and told[0] == first[item % 3]
    assert right == ITEMS
