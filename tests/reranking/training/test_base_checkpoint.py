"""A local checkpoint as the base: item vectors with LoRA or full tuning, exported as a plain checkpoint for any
engine."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from tuning_cases import ITEMS, NOW, fetch, learned_pairs, pairs_shop, run, settings, spec

from rayrec.numerics.collectives import Worker
from rayrec.reranking.item_token.item_head import ItemHead
from rayrec.reranking.item_token.item_vocabulary import scratch_tokenizer
from rayrec.reranking.training.tuning_loop import TuningLoop
from rayrec.reranking.training.tuning_preparation import prepare
from rayrec.reranking.training.warm_start import Ancestor
from rayrec.storage import Storage


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foreign checkpoint: own words, and an embedding table padded beyond them."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = scratch_tokenizer(["Some other text to learn pieces from."], ["one", "two"], 0)
    words = len(tokenizer)
    # It has no marks of ours: only plain words.
    tokenizer._tokenizer.save(str(folder / "all.json"))
    content = json.loads((folder / "all.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] == "<pad>"]
    (folder / "all.json").write_text(json.dumps(content))
    plain = PreTrainedTokenizerFast(tokenizer_file=str(folder / "all.json"), pad_token="<pad>")
    (folder / "all.json").unlink()
    plain.save_pretrained(str(folder))
    config = LlamaConfig(
        vocab_size=words + 5,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=request.param,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("rank", [pytest.param(4, id="LoRA"), pytest.param(0, id="in full")])
def test_local_base_is_tuned_and_exported_as_a_plain_checkpoint(tmp_path: Path, base: Path, rank: int) -> None:
    tuning = settings(base=str(base), epochs=15, lora_rank=rank, item_dropout=0.0, base_learning_rate=1e-2)
    given = spec(tmp_path, pairs_shop(), settings=tuning)
    card = run(given)
    assert card.base.startswith(base.name + "@")
    assert card.curve[-1]["loss"] < card.curve[0]["loss"] - 0.5
    tensors = load_file(Path(fetch(given).folder) / "model.safetensors")
    assert not [name for name in tensors if "lora" in name]
    name = "model.layers.0.mlp.up_proj.weight"
    assert not np.array_equal(tensors[name], load_file(base / "model.safetensors")[name])  # the base itself was tuned
    first = card.vocabulary.first_item
    if "lm_head.weight" in tensors:
        np.testing.assert_array_equal(tensors["lm_head.weight"][first:], tensors["model.embed_tokens.weight"][first:])
    assert learned_pairs(given) >= 0.8


def test_a_base_with_large_hidden_states_starts_near_uniform(tmp_path: Path, base: Path) -> None:
    """As pretrained models have them: the norm of their last layer is trained."""
    causal = LlamaForCausalLM.from_pretrained(base)
    with torch.no_grad():
        causal.model.norm.weight.fill_(50)
    large = tmp_path / "large"
    shutil.copytree(base, large)
    causal.save_pretrained(str(large))
    given = spec(tmp_path, pairs_shop(40), settings=settings(base=str(large)))
    given = replace(given, now=NOW // 2, until=NOW)
    prepared = prepare(given, Storage(given.root), tmp_path / "out")
    lm = prepared.initial_model()
    assert lm.logit_scale < 0.25
    first = TuningLoop(lm, prepared.layout, prepared.task, Worker()).validate()
    assert first == pytest.approx(math.log(ITEMS), abs=1)
    unscaled = prepared.initial_model()
    unscaled.logit_scale = 1.0
    assert TuningLoop(unscaled, prepared.layout, prepared.task, Worker()).validate() > first + 1


def test_scores_of_the_saved_model_are_those_of_tuning(tmp_path: Path, base: Path) -> None:
    """The scale is part of the model: validation of the tuning equals the log-probabilities of the item head."""
    given = spec(tmp_path, pairs_shop(40), settings=settings(base=str(base), epochs=1, item_dropout=0.0))
    given = replace(given, now=NOW // 2, until=NOW)
    card = replace(run(given), logit_scale=0.25)
    local = fetch(given)
    head, scaled = ItemHead.of(local), ItemHead.of(replace(local, card=card))
    state = np.random.default_rng(0).normal(size=64).astype(np.float32)
    every = np.arange(ITEMS)
    (plain,), (flat,) = head.log_probs([4 * state], [every]), scaled.log_probs([16 * state], [every])
    np.testing.assert_allclose(plain, flat, atol=1e-4)


def test_adapters_and_new_rows_have_learning_rates_of_their_own(tmp_path: Path, base: Path) -> None:
    tuning = settings(base=str(base), epochs=1, learning_rate=1e-30, base_learning_rate=1e-2)
    given = spec(tmp_path, pairs_shop(40), settings=tuning)
    prepared = prepare(given, Storage(given.root), tmp_path / "out")
    loop = TuningLoop(prepared.initial_model(), prepared.layout, prepared.task, Worker())
    before = {name: p.detach().clone() for name, p in loop.model.trainable_parameters().items()}
    loop.run(lambda _: None)
    moved = {name for name, p in loop.model.trainable_parameters().items() if not torch.equal(p.detach(), before[name])}
    assert {name for name in moved if "lora_B" in name}
    assert not {name for name in moved if not name.startswith("causal.")}


@pytest.mark.parametrize("rank", [pytest.param(4, id="LoRA"), pytest.param(0, id="in full")])
def test_a_warm_start_begins_where_the_tuned_base_ended(tmp_path: Path, base: Path, rank: int) -> None:
    tuning = settings(base=str(base), epochs=1, lora_rank=rank, warm_start_max_shift=1.0, base_learning_rate=1e-2)
    given = replace(spec(tmp_path, pairs_shop(40), settings=tuning), now=NOW // 2, until=NOW)
    (ended,) = run(given).curve
    warm = replace(given, path="models/llm/warm", ancestor=Ancestor(given.path, given.now, "digest"))
    prepared = prepare(warm, Storage(given.root), tmp_path / "warm")
    first = TuningLoop(prepared.initial_model(), prepared.layout, prepared.task, Worker()).validate()
    assert first == pytest.approx(ended["validation"], abs=1e-3)
