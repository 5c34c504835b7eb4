"""Item tokens on SmolLM2-135M-Instruct as the base, by LoRA: tuned, exported, and scored by the item-token ranker."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from real_checkpoint import smollm2_folder
from tuning_cases import INSTRUCTION, ITEMS, NOW, fetch, pairs_shop, run, settings, spec

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import EngineSettings, Failure
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.item_token.item_head import ItemHead

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
