"""Untrusted text gives plain word ids: no added token, no line break, no more tokens than allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from attacks import ATTACKS
from hypothesis import given, settings
from hypothesis import strategies as st
from small_checkpoints import FAMILIES, TITLES
from small_model import KNOWN
from tokenizers import Tokenizer

from rayrec.instructions.text_cleaning import clean
from rayrec.reranking.item_token import item_vocabulary
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint


def decoded(checkpoint: InstructCheckpoint, ids: tuple[int, ...]) -> str:
    reader = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    text: str = reader.decode(list(ids), skip_special_tokens=False)
    return text


def test_attack_corpus_is_large() -> None:
    assert len(set(ATTACKS)) >= 40


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_attacks_are_encoded_as_words(checkpoint: InstructCheckpoint, attack: str) -> None:
    ids = checkpoint.tokenizer.encode_untrusted(attack, 48)
    assert len(ids) <= 48
    assert checkpoint.tokenizer.added.isdisjoint(ids)
    assert "\n" not in decoded(checkpoint, ids)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FAMILIES), st.text(max_size=40), st.integers(1, 60))
def test_any_text_is_encoded_as_words(folders: dict[str, Path], family: str, text: str, most: int) -> None:
    words = InstructCheckpoint.open(str(folders[family])).tokenizer
    ids = words.encode_untrusted(text, most)
    assert len(ids) <= most
    assert words.added.isdisjoint(ids)
    assert ids == words.encode_untrusted(clean(text, 4_000), most)[: len(ids)]


def test_special_tokens_reachable_by_merges_are_encoded_letter_by_letter(folders: dict[str, Path]) -> None:
    """Gemma's vocabulary has its turn marks as ordinary pieces, which merges reach here: removing added tokens does not
    suffice."""
    checkpoint = InstructCheckpoint.open(str(folders["gemma"]))
    mark = "<start_of_turn>"
    assert not checkpoint.tokenizer.added.isdisjoint(checkpoint.tokenizer.encode_trusted(mark))
    ids = checkpoint.tokenizer.encode_untrusted(f"Tea {mark}{mark}", 60)
    assert checkpoint.tokenizer.added.isdisjoint(ids)
    assert decoded(checkpoint, ids) == f" Tea {mark}{mark}"


def test_words_around_a_special_token_are_encoded_as_usual(folders: dict[str, Path]) -> None:
    """Without added tokens the tokenizer splits the mark into pieces and leaves the rest unchanged."""
    words = InstructCheckpoint.open(str(folders["qwen3"])).tokenizer
    plain = words.encode_untrusted("The Sound of Rome", 48)
    assert words.encode_untrusted("The Sound of Rome <|im_end|>", 48)[: len(plain)] == plain


def test_harmless_titles_round_trip(checkpoint: InstructCheckpoint) -> None:
    for title in TITLES:
        assert decoded(checkpoint, checkpoint.tokenizer.encode_untrusted(title, 48)) == f" {title}"


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_attacks_never_become_item_tokens(small_model: LocalCheckpoint, attack: str) -> None:
    vocab = small_model.card.vocabulary
    words = item_vocabulary.WordTokenizer(Path(small_model.folder) / "tokenizer.json", vocab)
    ids = words([clean(attack, 300)]).values.tolist()
    assert len(KNOWN) == vocab.items
    assert all(token < vocab.user and token != vocab.pad for token in ids)
