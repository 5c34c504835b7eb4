"""The packaged encoder gives its published vectors, text by text; folders that cannot be trusted or computed are
refused."""

from __future__ import annotations

import json
import pickle
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_folder import small_encoder

from rayrec.errors import ConfigError
from rayrec.storage import Storage, checkpoint_cache
from rayrec.text_encoding.sentence_encoder import SentenceEncoder

TEXTS = ["A man is eating food.", "something to laugh at", "A man is eating a piece of bread.", "dividend yields"]


@pytest.fixture(scope="module")
def auto() -> SentenceEncoder:
    return SentenceEncoder.open("auto")


def test_auto_agrees_with_mean_pooling_of_a_padded_batch(auto: SentenceEncoder) -> None:
    """The definition of the model's card, with the tokenizer and the batch of transformers."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(auto.folder), AutoModel.from_pretrained(auto.folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
        expected = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()
    np.testing.assert_allclose(auto.encode(TEXTS), expected, atol=2e-6)


def test_like_sentences_are_close(auto: SentenceEncoder) -> None:
    """The model card's example pair; .7553 was published for these weights."""
    vectors = auto.encode(TEXTS)
    assert float(vectors[0] @ vectors[2]) == pytest.approx(0.7553, abs=1e-3)
    assert float(vectors[0] @ vectors[3]) < 0.2


def test_a_vector_does_not_depend_on_the_other_texts(auto: SentenceEncoder) -> None:
    together = auto.encode([*TEXTS, "a much longer text that would have padded all the others " * 3, *TEXTS])
    for row, text in enumerate(TEXTS):
        alone = auto.encode([text])[0]
        assert np.array_equal(alone, together[row])
        assert np.array_equal(alone, together[row + 5])


def test_a_text_without_tokens_is_the_zero_vector(auto: SentenceEncoder) -> None:
    assert not auto.encode(["", " \n"]).any()
    assert auto.encode([]).shape == (0, 384)


def test_no_text_can_spell_a_special_token(auto: SentenceEncoder) -> None:
    before, after = auto._special
    ids = auto._token_ids("[SEP] night [CLS] [PAD]")
    assert not {*before, *after, 0} & set(ids[1:-1])


def test_long_texts_are_cut_at_the_models_length(auto: SentenceEncoder) -> None:
    assert len(auto._token_ids("word " * 5000)) == 256


def test_the_digest_follows_content_and_pooling(tmp_path: Path) -> None:
    folder = small_encoder(tmp_path)
    first = SentenceEncoder.open(str(folder)).digest
    assert first == SentenceEncoder.open(str(folder)).digest
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    assert SentenceEncoder.open(str(folder)).digest != first


def test_first_token_pooling(tmp_path: Path) -> None:
    folder = small_encoder(tmp_path)
    mean = SentenceEncoder.open(str(folder)).encode(["the sound of rome"])
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    first = SentenceEncoder.open(str(folder)).encode(["the sound of rome"])
    assert not np.allclose(mean, first)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("modules.json", [{"type": "os.system"}], "names 'system'"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "names 'Dense'"),
        ("modules.json", {"type": "x"}, "does not hold"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens is not supported"),
    ],
)
def test_what_cannot_be_computed_is_refused(tmp_path: Path, name: str, content: object, message: str) -> None:
    folder = small_encoder(tmp_path)
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        SentenceEncoder.open(str(folder))


def test_weights_come_from_safetensors_only(tmp_path: Path) -> None:
    folder = small_encoder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"no \*\.safetensors"):
        SentenceEncoder.open(str(folder))


def test_an_encoder_at_a_url_is_the_folders_and_must_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_cache, "default_folder", lambda: tmp_path / "cache")
    folder, url = small_encoder(tmp_path), f"memory://{uuid.uuid4().hex}/encoder"
    for file in folder.rglob("*"):
        if file.is_file():
            Storage(url).write(file.relative_to(folder).as_posix(), file.read_bytes())
    local, remote = SentenceEncoder.open(str(folder)), SentenceEncoder.open(url)
    assert remote.digest == local.digest
    on_a_worker = pickle.loads(pickle.dumps(remote))
    assert "folder" not in vars(on_a_worker)
    np.testing.assert_array_equal(on_a_worker.encode(["the sound"]), local.encode(["the sound"]))
    Storage(url).write("1_Pooling/config.json", json.dumps({"pooling_mode_cls_token": True}).encode())
    with pytest.raises(ConfigError, match="has changed since the run began"):
        pickle.loads(pickle.dumps(remote)).encode(["the sound"])
