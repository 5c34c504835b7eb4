"""Cleaning removes hidden characters, normalises text, and is idempotent."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.instructions.text_cleaning import clean

HIDING = "\u200b\u200d\u202e\u2066\ufeff\u00ad\U000e0041\ufe0f\U000e0101\u034f\u115f\u3164\uffa0\u2800\x00\x1b\ue000"
"""Zero-width, bidi, tag, selector, filler, control and private characters: one of each kind."""


@pytest.mark.parametrize("char", HIDING, ids=lambda char: f"U+{ord(char):04X}")
def test_invisible_characters_are_removed(char: str) -> None:
    assert clean(f"no{char}thing", 100) == "nothing"
    assert clean(char * 50, 100) == ""


def test_white_space_becomes_one_space() -> None:
    assert clean(" gifts\tunder\r\n\u2028 £5\u00a0\u3000please ", 100) == "gifts under £5 please"


def test_compatibility_forms_are_normalised_also_around_hidden_characters() -> None:
    assert clean("\uff27\uff49\uff46\uff54", 100) == "Gift"
    assert clean("cafe\u200d\u0301", 100) == "caf\u00e9"


@given(st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(HIDING + "e\u0301\u00a8 "))))
def test_cleaning_is_idempotent_and_leaves_nothing_hidden(text: str) -> None:
    once = clean(text, 40)
    assert clean(once, 40) == once
    assert len(once) <= 40
    assert not any(unicodedata.category(char).startswith("C") for char in once)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_fast_path_equals_the_full_path(text: str) -> None:
    assert clean(text, 40) == clean(text + "\u200b", 40)
