"""A local checkpoint as the base: item vectors with LoRA or full tuning, exported as a plain checkpoint for any
engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from tuning_cases import fetch, learned_pairs, pairs_shop, run, settings, spec

from rayrec.reranking.item_token.item_vocabulary import scratch_tokenizer


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
    tuning = settings(base=str(base), epochs=15, lora_rank=rank, item_dropout=0.0)
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
