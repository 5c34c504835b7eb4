"""A local checkpoint as the language model: LoRA, tokenizer, and the same contract as the small model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import small_checkpoints
import torch
from safetensors.numpy import load_file, save_file
from small_users import NOW, WEIGHTS, events, histories, items, settings, trained

from benchmarks.embed_uncached import embed_from_prefix, embed_uncached
from rayrec.embeddings import Embedder
from rayrec.embeddings.embedder_training import train
from rayrec.embeddings.language_model import base_digest, text_tokenizer
from rayrec.embeddings.training_windows import training_windows
from rayrec.embeddings.user_model import build
from rayrec.errors import ConfigError, DataError
from rayrec.pipeline.embedding_training import vector_settings
from rayrec.storage import Storage

TEXTS = ["Will this person buy again?", "Does this person like lamps?", ""]


def model_of(base: Path) -> dict[str, object]:
    return {"base": str(base), "lora_rank": 4, "encoder_width": 16, "dim": 16}


@pytest.fixture(scope="module", params=small_checkpoints.FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoints.build(tmp_path_factory.mktemp("base"), request.param)


@pytest.fixture(scope="module")
def tuned(base: Path) -> Embedder:
    return trained(settings(model=model_of(base)))


def test_the_cached_prefix_gives_the_same_result_as_a_full_forward_pass(tuned: Embedder) -> None:
    views = tuned.view_builder(items())(events())
    cached = tuned.embed(views, TEXTS)
    assert np.abs(cached - embed_uncached(tuned, views, TEXTS)).max() < 1e-5
    for k, text in enumerate(TEXTS):
        np.testing.assert_array_equal(cached[k], tuned.embed(views, [text])[0])


def test_a_long_question_changes_nothing_in_the_cache(base: Path) -> None:
    model = build(settings(model=model_of(base)).model, ("events", "profile"), 50, 20, 0).eval()
    with torch.inference_mode():
        prefix = torch.randn(3, model.prefix_tokens, model.llm.width) * model.llm.spread
        cache = model.prefill(prefix)
        for instruction in ([], list(range(5, 105)), [3, 5, 7]):  # beyond the sliding window of one family
            found = model.embed_cached(cache, instruction)
            torch.testing.assert_close(found, embed_from_prefix(model, prefix, instruction), rtol=0, atol=1e-5)
            torch.testing.assert_close(found, model.embed_cached(cache, instruction), rtol=0, atol=0)


def test_only_learned_weights_are_saved_and_the_loaded_model_is_bit_identical(
    tuned: Embedder, base: Path, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path))
    tuned.save(storage, "f")
    stored = storage.read(next(f.path for f in storage.list("models") if f.path.endswith(".safetensors")))
    (tmp_path / "stored.safetensors").write_bytes(stored)
    names = [name for name in load_file(tmp_path / "stored.safetensors") if name.startswith("llm.")]
    assert names
    assert all("lora_" in name for name in names)
    views = tuned.view_builder(items())(events())
    loaded = Embedder.load(storage, "f")
    np.testing.assert_array_equal(loaded.embed(views, TEXTS), tuned.embed(views, TEXTS))
    np.testing.assert_array_equal(loaded.embed_items(items()), tuned.embed_items(items()))


def test_training_reduces_the_loss_and_leaves_the_checkpoint_unchanged(base: Path) -> None:
    training = {
        "cutoffs": 2,
        "cutoff_interval_days": 10.0,
        "epochs": 4,
        "batch_users": 16,
        "validation_share": 0.2,
        "patience": 4,
    }
    given = settings(model=model_of(base), training=training)
    before = {file.name: file.read_bytes() for file in base.iterdir()}
    found = train(given, training_windows(given, histories(), items(), WEIGHTS, NOW), items())
    assert found.curve[-1]["loss"] < found.curve[0]["loss"] - 0.5
    assert {file.name: file.read_bytes() for file in base.iterdir()} == before
    moved = [p.abs().max() for name, p in found.model.learned().items() if "lora_B" in name]  # 0 initially
    assert moved
    assert min(moved) > 0


def test_no_text_is_tokenized_as_a_special_token(base: Path, tuned: Embedder) -> None:
    tokenize = text_tokenizer(settings(model=model_of(base)).model, tuned.vocabulary)
    marks = ["<|endoftext|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<pad>", "<bos>", "<end_of_turn>"]
    for mark in marks:
        assert len(tokenize(f"red {mark} lamp")) > len(tokenize("red lamp")) + 1  # split into several tokens


def test_a_replaced_checkpoint_is_an_error(tuned: Embedder, base: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(base, tmp_path / "base")
    given = trained(settings(model=model_of(moved), training={"cutoffs": 1, "epochs": 1, "cutoff_interval_days": 10.0}))
    storage = Storage(str(tmp_path / "out"))
    given.save(storage, "f")
    weights = load_file(moved / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, moved / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="the base is now"):
        Embedder.load(storage, "f")
    shutil.rmtree(moved)
    with pytest.raises(ConfigError, match=r"embeddings\.model\.base"):
        Embedder.load(storage, "f")


def test_the_fingerprint_has_the_checkpoints_content_and_not_its_path(base: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(base, tmp_path / base.name)
    here, there = (vector_settings(settings(model=model_of(folder))) for folder in (base, moved))
    assert here == there
    assert str(base) not in str(here)
    config = (moved / "config.json").read_text()
    (moved / "config.json").write_text(config + "\n")
    assert base_digest(settings(model=model_of(moved)).model) != here["model"]["base"]


def test_an_invalid_base_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"embeddings\.model\.base"):
        trained(settings(model=model_of(tmp_path)))
