"""Slips of the pen are corrected; known words are left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.instructions.spelling import SpellingCorrector, is_one_edit

CORRECT = SpellingCorrector(["a funny movie", "horror", "scary"], {"hoover", "sunny"}.__contains__)
LETTERS = st.text("abcd", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("text", "corrected"),
    [
        ("funy movei!", "funny movie!"),
        ("Horor", "horror"),
        ("horrror, scarry", "horror, scary"),
        ("sunny hoover", "sunny hoover"),
        ("fun", "fun"),
        ("a set of 5 lamps", "a set of 5 lamps"),
        ("hrroro", "hrroro"),
    ],
)
def test_words_one_edit_from_an_expected_one(text: str, corrected: str) -> None:
    assert CORRECT(text) == corrected


def edits(word: str) -> set[str]:
    """Every word one edit away, by definition."""
    dropped = {word[:n] + word[n + 1 :] for n in range(len(word))}
    added = {word[:n] + letter + word[n:] for n in range(len(word) + 1) for letter in "abcd"}
    replaced = {word[:n] + letter + word[n + 1 :] for n in range(len(word)) for letter in "abcd"}
    swapped = {word[:n] + word[n + 1] + word[n] + word[n + 2 :] for n in range(len(word) - 1)}
    return (dropped | added | replaced | swapped) - {word}


@given(LETTERS, LETTERS)
def test_one_edit(one: str, other: str) -> None:
    assert is_one_edit(one, other) == (other in edits(one))
    for near in edits(one):
        assert is_one_edit(one, near)
