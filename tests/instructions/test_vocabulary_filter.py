"""The vocabulary filter retains known words, in any variant, and drops all others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.instructions.vocabulary_filter import InVocabularyFilter

TEXTS = [
    "find me something in",
    "comedy",
    "western",
    "glass lantern",
    "1990s",
    "under 5",
    "at most 0.5",
    "no, nothing",
    "story",
]
FILTER = InVocabularyFilter(TEXTS)


@pytest.mark.parametrize(
    ("text", "filtered"),
    [
        ("It's pouring, find me a comedy!", ", find me comedy"),
        ("Any Westerns? No glass.", "western no glass"),
        ("comedies of the 90s", "comedy 1990s"),
        ("stories under 5", "story under 5"),
        ("glasses", "glass"),
        ("something from 1994", "something 1990s"),
        ("under £7.50, a lantern", "under 5 , lantern"),
        ("under 0.75", "under 0.5"),
        ("under 1,500, comedy", "under 5 , comedy"),
        ("under 0.2", "under"),
        ("a lantern for my 7 year old", "lantern"),
        ("sofa", ""),
        ("etwas für Öfen, comedy", "für öfen , comedy"),
        ("给我喜剧", "给我喜剧"),
    ],
)
def test_known_words_are_retained_and_others_dropped(text: str, filtered: str) -> None:
    assert FILTER(text) == filtered


@given(st.text(max_size=60))
def test_filter_is_idempotent(text: str) -> None:
    once = FILTER(text)
    assert FILTER(once) == once
    assert all(word in FILTER.words for word in once.split() if word.isascii())


@given(st.lists(st.sampled_from(sorted(FILTER.words)), max_size=8), st.lists(st.sampled_from(["sofa", "zwv", "££"])))
def test_unknown_words_change_nothing(known: list[str], others: list[str]) -> None:
    assert FILTER(" ".join([*others, *known, *others])) == " ".join(known)


def test_a_filter_made_of_its_own_words_is_the_same() -> None:
    again = InVocabularyFilter(FILTER.words)
    assert again.words == FILTER.words
    assert again("Comedies, please, of the 90s") == FILTER("Comedies, please, of the 90s")
