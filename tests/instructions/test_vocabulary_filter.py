"""What is heard of a request: the words that were taught, in whatever form, and nothing of the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.instructions.vocabulary_filter import InVocabularyFilter

TAUGHT = [
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
HEARING = InVocabularyFilter(TAUGHT)


@pytest.mark.parametrize(
    ("said", "heard"),
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
def test_words_that_were_taught_are_heard_and_others_are_not(said: str, heard: str) -> None:
    assert HEARING(said) == heard


@given(st.text(max_size=60))
def test_what_is_heard_once_is_heard_the_same_again(text: str) -> None:
    heard = HEARING(text)
    assert HEARING(heard) == heard
    assert all(word in HEARING.words for word in heard.split() if word.isascii())


@given(st.lists(st.sampled_from(sorted(HEARING.words)), max_size=8), st.lists(st.sampled_from(["sofa", "zwv", "££"])))
def test_untaught_words_change_nothing(taught: list[str], others: list[str]) -> None:
    assert HEARING(" ".join([*others, *taught, *others])) == " ".join(taught)


def test_a_list_of_its_own_words_hears_the_same() -> None:
    again = InVocabularyFilter(HEARING.words)
    assert again.words == HEARING.words
    assert again("Comedies, please, of the 90s") == HEARING("Comedies, please, of the 90s")
