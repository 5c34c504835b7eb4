from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import INSTRUCTION, KNOWN
from tokenizers import Tokenizer

from rayrec.errors import DataError
from rayrec.instructions.text_cleaning import clean
from rayrec.reranking.item_token import item_vocabulary
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint


def test_item_i_is_token_first_item_plus_i(small_model: LocalCheckpoint) -> None:
    saved = Tokenizer.from_file(str(Path(small_model.folder) / "tokenizer.json"))
    vocab = small_model.card.vocabulary
    assert vocab.items == len(KNOWN)
    for index in (0, 1, 77, vocab.items - 1):
        assert saved.token_to_id(f"<item_{index}>") == vocab.first_item + index
    assert saved.token_to_id("<user>") == vocab.user
    assert saved.token_to_id("<gap_0>") == vocab.first_gap
    assert saved.get_vocab_size() == vocab.size


def spelt(text: str) -> str:
    """The letters of a text, for a tokenizer that ignores case and spaces."""
    return "".join(text.lower().replace("ς", "σ").split())  # letter by letter there is no final sigma


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=30))
def test_any_clean_text_round_trips(small_model: LocalCheckpoint, text: str) -> None:
    path, cleaned = Path(small_model.folder) / "tokenizer.json", clean(text, 30)
    ids = item_vocabulary.WordTokenizer(path, small_model.card.vocabulary)([cleaned]).values.tolist()
    assert all(0 < token < small_model.card.vocabulary.user for token in ids)
    assert spelt(Tokenizer.from_file(str(path)).decode(ids)) == spelt(cleaned)


def test_word_is_one_token_in_any_position(small_model: LocalCheckpoint) -> None:
    tokenizer = item_vocabulary.scratch_tokenizer(["lamp", "what"], [], 1)
    tokens_of = [tokenizer.tokenize(text) for text in ("lamp", "what lamp", '"LAMP"', "what,lamp.")]
    assert len(tokens_of[0]) == 1
    assert all(tokens_of[0][0] in tokens for tokens in tokens_of)


def test_tokenizer_is_deterministic() -> None:
    titles = [f"The {word} of {place}" for word in ("Sound", "Taste", "Colour") for place in ("Rome", "Oslo", "Lima")]
    one, two = (item_vocabulary.scratch_tokenizer([INSTRUCTION], titles, 3).get_vocab() for _ in "ab")
    assert one == two


def test_base_with_our_tokens_is_refused() -> None:
    tokenizer = item_vocabulary.scratch_tokenizer([INSTRUCTION], [], 2)
    tokenizer.add_tokens(["something else", "<item_2>"])
    with pytest.raises(DataError, match="already has"):
        item_vocabulary.vocabulary_from_tokenizer(tokenizer, 3)


def test_instruction_that_leaves_no_room_is_refused(small_model: LocalCheckpoint) -> None:
    with pytest.raises(DataError, match="shorten"):
        small_model.layout("very " * 200, 128)
