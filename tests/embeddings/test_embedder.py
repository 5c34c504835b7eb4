"""The embedder: cache and batch do not change results, the instruction does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_users import events, items, settings

from benchmarks.embed_uncached import embed_from_prefix, embed_uncached
from rayrec.embeddings import Embedder, Events
from rayrec.embeddings.embedder import KIND
from rayrec.embeddings.language_model import MAX_TOKENS
from rayrec.embeddings.user_model import build
from rayrec.embeddings.word_vocabulary import PAD
from rayrec.errors import DataError
from rayrec.storage import Storage

TEXTS = ["Will this person buy again?", "Does this person like lamps?", "", "something nobody ever asked before"]


def embed(embedder: Embedder, users: Events, texts: list[str] | None = None) -> np.ndarray:
    return embedder.embed(embedder.view_builder(items())(users), TEXTS if texts is None else texts)


def test_the_cached_prefix_gives_the_same_result_as_a_full_forward_pass(embedder: Embedder) -> None:
    views = embedder.view_builder(items())(events())
    cached, whole = embedder.embed(views, TEXTS), embed_uncached(embedder, views, TEXTS)
    assert np.abs(cached - whole).max() < 1e-5


def test_instructions_do_not_affect_each_other(embedder: Embedder) -> None:
    together = embed(embedder, events(), TEXTS[::-1])[::-1]
    for k, text in enumerate(TEXTS):
        np.testing.assert_array_equal(together[k], embed(embedder, events(), [text])[0])


def test_the_prefix_is_computed_once_for_all_instructions(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = []
    layer = embedder.model.llm.decoder.layers[0].mlp
    forward = layer.forward

    def counted(states: torch.Tensor) -> object:
        tokens.append(states.shape[0] * states.shape[1])
        return forward(states)

    monkeypatch.setattr(layer, "forward", counted)
    views = embedder.view_builder(items())(events())
    asked = [TEXTS[0]] * 16
    embedder.embed(views, asked)
    cached = sum(tokens)
    tokens.clear()
    embed_uncached(embedder, views, asked)
    prefix, question = embedder.model.prefix_tokens, len(embedder.vocabulary.ids(TEXTS[0])) + 1
    assert cached == 64 * (prefix + 16)  # one layer: only <USER> of the question is computed
    assert sum(tokens) == 64 * 16 * (prefix + question)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_question_equals_a_plain_forward_pass_of_the_language_model(layers: int) -> None:
    given = settings(model={"encoder_width": 16, "width": 32, "heads": 2, "feedforward": 32, "layers": layers})
    model = build(given.model, ("events", "profile"), 50, 20, 0).eval()
    with torch.inference_mode():
        prefix = torch.randn(3, model.prefix_tokens, 32)
        cache = model.prefill(prefix)
        for instruction in ([], [4], [3, 5, 7, 9, 2]):
            found = model.embed_cached(cache, instruction)
            torch.testing.assert_close(found, embed_from_prefix(model, prefix, instruction), rtol=0, atol=1e-6)
            torch.testing.assert_close(found, model.embed_cached(cache, instruction), rtol=0, atol=0)


def test_a_vector_is_bit_identical_in_any_batch(embedder: Embedder) -> None:
    whole = events()
    together = embed(embedder, whole)
    order = np.random.default_rng(1).permutation(len(whole))
    np.testing.assert_array_equal(embed(embedder, whole.take(order)), together[:, order])
    for user in (0, 13, 59):
        np.testing.assert_array_equal(embed(embedder, whole.take(np.array([user])))[:, 0], together[:, user])
    many = np.tile(np.arange(len(whole)), 3)
    np.testing.assert_array_equal(embed(embedder, whole.take(many)), together[:, many])


def test_vectors_have_unit_length_with_and_without_events(embedder: Embedder) -> None:
    whole = events()
    users = whole.filter(whole.user != 5)
    vectors = embed(embedder, users)
    assert vectors.shape == (len(TEXTS), len(users), embedder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
    present = embedder.present(embedder.view_builder(items())(users))
    assert not present[5].any()
    assert present[users.lengths > 0, 0].any()


def test_another_instruction_gives_another_vector(embedder: Embedder) -> None:
    vectors = embed(embedder, events())
    cosine = (vectors[0] * vectors[1]).sum(1)
    assert cosine.max() < 0.999


def test_no_users_give_no_vectors(embedder: Embedder) -> None:
    assert embed(embedder, events().take(np.array([], np.int64))).shape == (len(TEXTS), 0, embedder.dim)


def test_a_saved_model_is_bit_identical(embedder: Embedder, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert embedder.save(storage, "f")
    assert not embedder.save(storage, "f")
    loaded = Embedder.load(storage, "f")
    np.testing.assert_array_equal(embed(loaded, events()), embed(embedder, events()))
    assert loaded.card == embedder.card
    assert loaded.settings == embedder.settings


def test_a_changed_model_file_is_an_error(embedder: Embedder, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    embedder.save(storage, "f")
    path = f"models/{KIND}/f/meta.json"
    storage.write(path, storage.read(path).replace(b'\\"width\\":32', b'\\"width\\":64'))
    with pytest.raises(DataError, match="cannot be read"):
        Embedder.load(storage, "f")


def test_an_instruction_that_is_too_long_is_an_error(embedder: Embedder) -> None:
    with pytest.raises(DataError, match="tokens"):
        embed(embedder, events(), ["word " * MAX_TOKENS])


def test_a_missing_source_is_the_learned_vector_for_any_padding() -> None:
    given = settings()
    model = build(given.model, ("events", "profile"), 50, 20, 0)
    summaries = torch.randn(2, 2, given.model.width)
    present = torch.tensor([[True, False], [True, False]])
    other = summaries.clone()
    other[:, 1] = 7
    torch.testing.assert_close(model.prefix(summaries, present), model.prefix(other, present), rtol=0, atol=0)
    assert not torch.equal(model.prefix(summaries, present), model.prefix(summaries, torch.ones(2, 2) > 0))


def test_examples_share_a_prefix_and_attend_only_to_preceding_tokens(embedder: Embedder) -> None:
    model, ids = embedder.model, embedder.vocabulary.ids(TEXTS[0])
    prefix = torch.randn(2, model.prefix_tokens, embedder.settings.model.width)
    place, user_at = torch.tensor([1, 0, 1]), torch.tensor([len(ids)] * 3)
    tokens = torch.tensor([[*ids, PAD, 3, 4], [*ids, PAD, 5, PAD], [*ids, PAD, 6, 7]])
    states = model.example_states(prefix, place, tokens, user_at)
    expected = embed_from_prefix(model, prefix, ids)[place]
    torch.testing.assert_close(model.unit_user(states[torch.arange(3), user_at]), expected, rtol=0, atol=1e-5)
