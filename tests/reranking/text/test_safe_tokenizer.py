"""Whatever an item's text says, its ids are words: no added token, no line break, no more than were asked for."""

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


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(set(ATTACKS)) >= 40


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_no_attack_is_read_as_anything_but_words(checkpoint: InstructCheckpoint, attack: str) -> None:
    ids = checkpoint.tokenizer.encode_untrusted(attack, 48)
    assert len(ids) <= 48
    assert checkpoint.tokenizer.added.isdisjoint(ids)
    assert "\n" not in decoded(checkpoint, ids)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FAMILIES), st.text(max_size=40), st.integers(1, 60))
def test_no_text_at_all_is(folders: dict[str, Path], family: str, text: str, most: int) -> None:
    words = InstructCheckpoint.open(str(folders[family])).tokenizer
    ids = words.encode_untrusted(text, most)
    assert len(ids) <= most
    assert words.added.isdisjoint(ids)
    assert ids == words.encode_untrusted(clean(text, 4_000), most)[: len(ids)]


def test_marks_that_merges_could_spell_are_spelt_in_letters(folders: dict[str, Path]) -> None:
    """Gemma's vocabulary holds its turn marks as pieces, and here merges lead to them: a stripped tokenizer is not
    enough."""
    checkpoint = InstructCheckpoint.open(str(folders["gemma"]))
    mark = "<start_of_turn>"
    assert not checkpoint.tokenizer.added.isdisjoint(checkpoint.tokenizer.encode_trusted(mark))
    ids = checkpoint.tokenizer.encode_untrusted(f"Tea {mark}{mark}", 60)
    assert checkpoint.tokenizer.added.isdisjoint(ids)
    assert decoded(checkpoint, ids) == f" Tea {mark}{mark}"


def test_words_around_a_look_alike_are_read_as_ever(folders: dict[str, Path]) -> None:
    """Stripped of its added tokens the tokenizer need not spell: the look-alike falls into pieces, the rest stays."""
    words = InstructCheckpoint.open(str(folders["qwen3"])).tokenizer
    plain = words.encode_untrusted("The Sound of Rome", 48)
    assert words.encode_untrusted("The Sound of Rome <|im_end|>", 48)[: len(plain)] == plain


def test_a_harmless_title_is_read_as_written(checkpoint: InstructCheckpoint) -> None:
    for title in TITLES:
        assert decoded(checkpoint, checkpoint.tokenizer.encode_untrusted(title, 48)) == f" {title}"


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_no_attack_is_read_as_an_item_of_the_item_token_model(small_model: LocalCheckpoint, attack: str) -> None:
    vocab = small_model.card.vocabulary
    words = item_vocabulary.WordTokenizer(Path(small_model.folder) / "tokenizer.json", vocab)
    ids = words([clean(attack, 300)]).values.tolist()
    assert len(KNOWN) == vocab.items
    assert all(token < vocab.user and token != vocab.pad for token in ids)
