"""Item tokens on SmolLM2-135M-Instruct as the base, by LoRA: tuned, exported, and scored by the item-token ranker."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from real_checkpoint import smollm2_folder
from tuning_cases import INSTRUCTION, ITEMS, NOW, as_table, fetch, pairs_shop, run, settings, spec

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.collectives import Worker
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import EngineSettings, Failure
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.item_token.item_head import ItemHead
from rayrec.reranking.training.tuning_loop import TuningLoop
from rayrec.reranking.training.tuning_preparation import prepare
from rayrec.storage import Storage

pytestmark = pytest.mark.slow


def test_a_pretrained_base_learns_and_scores(tmp_path: Path) -> None:
    tuning = settings(base=smollm2_folder(), epochs=2, lora_rank=4, item_dropout=0.0, batch_tokens=256)
    given = spec(tmp_path, pairs_shop(users=8), settings=tuning)
    card = run(given)
    assert card.base.startswith("smollm2-135m-instruct@")
    assert card.curve[-1]["loss"] < card.curve[0]["loss"]
    assert card.logit_scale < 0.25  # hidden states of norm 49: without it the first loss is some 100 nats
    assert card.curve[0]["loss"] < math.log(ITEMS) + 1
    model = fetch(given)
    engine = TransformersRunner(model.model_files, "hidden_state", EngineSettings())
    layout = model.layout(INSTRUCTION, engine.max_prompt_tokens)
    item = Ragged.from_lengths(np.array([0]), np.ones(1, np.int64))
    prompts = layout.prompts(item, item.like(np.array([NOW - MICROSECONDS_PER_DAY])), NOW)
    every = list(range(model.card.vocabulary.first_item, model.card.vocabulary.size))
    (scored,) = ItemHead.of(model).score(engine.last_hidden_states([prompts[0].tolist()]), [every])
    assert not isinstance(scored, Failure)
    assert scored.shape == (len(every),)
    assert np.exp(scored).sum() == pytest.approx(1, abs=1e-3)


def test_the_first_loss_is_near_uniform_over_thousands_of_items(tmp_path: Path) -> None:
    """Every item was consumed once; eight users consume another two afterwards."""
    items, users, asked = 5_000, 500, 8
    order = np.random.default_rng(0).permutation(items)
    early = Ragged.from_lengths(order, np.full(users, items // users))
    late = Ragged.from_lengths(order[: 2 * asked], np.repeat([2, 0], [asked, users - asked]))
    item = early.joined(late.like((late.values + 1) % items))
    place = np.arange(len(item.values)) - item.offsets[:-1][item.rows]
    table = as_table(item, NOW + MICROSECONDS_PER_DAY * (place - items // users))
    titles = pa.table({"item_id": [f"i{code:04}" for code in range(items)], "title": ["x"] * items})
    given = spec(tmp_path, table, settings=settings(base=smollm2_folder()))
    given = replace(given, catalogue=titles, until=NOW + MICROSECONDS_PER_DAY * 3)
    prepared = prepare(given, Storage(given.root), tmp_path / "out")
    first = TuningLoop(prepared.initial_model(), prepared.layout, prepared.task, Worker()).validate()
    assert prepared.layout.vocabulary.items == items
    print(f"first loss {first:.3f}, log(items) {math.log(items):.3f}")
    assert abs(first - math.log(items)) < 1
