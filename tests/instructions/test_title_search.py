"""Titles that requests name, and the items that have their words."""

from __future__ import annotations

import pytest

from rayrec.instructions.facet_scheme import CATEGORY, WORD, FacetScheme
from rayrec.instructions.request_understanding import RequestUnderstanding
from rayrec.instructions.title_search import NamedTitle, TitleIndex, named_titles

INDEX = TitleIndex(["Star Wars", "The Star", "Wars and Stars (1999)", "Teapots, blue", ""])
FILMS = RequestUnderstanding.of(FacetScheme((CATEGORY, CATEGORY), ("comedy", "drama"), {}), titles=INDEX)
SHOP = RequestUnderstanding.of(FacetScheme((WORD,), ("blue",), {}), titles=INDEX)


@pytest.mark.parametrize(
    ("words", "items"),
    [
        (["star"], [0, 1, 2]),
        (["stars", "war"], [0, 2]),
        (["teapot"], [3]),
        (["star", "blue"], []),
        (["x"], []),
        ([], []),
    ],
)
def test_items_with_all_words_in_singular_or_plural(words: list[str], items: list[int]) -> None:
    assert INDEX.items_with(words).tolist() == items


@pytest.mark.parametrize(
    ("text", "rest", "titles"),
    [
        ("a comedy with 'love' in the title", "a comedy", [NamedTitle(("love",))]),
        ("films whose title contains dark night", "films", [NamedTitle(("dark", "night"))]),
        ("with king or queen in its name", "", [NamedTitle(("king",)), NamedTitle(("queen",))]),
        ("that one called Up, please", "that one , please", [NamedTitle(("up",))]),
        ("nothing with zombie in the title", "nothing", [NamedTitle(("zombie",), -1.0)]),
        ('show me "star wars"', "show me", [NamedTitle(("star", "wars"))]),
        ("the word 'dead' should be in the title", "", [NamedTitle(("dead",))]),
        ("a western with horses", "a western with horses", []),
        ("", "", []),
    ],
)
def test_titles_that_are_named_as_such(text: str, rest: str, titles: list[NamedTitle]) -> None:
    assert named_titles(text) == (rest, titles)


def test_words_of_one_title_and_nothing_else_name_it() -> None:
    assert FILMS("any star wars movies?").titles == (NamedTitle(("star", "wars")),)
    assert not FILMS("star")  # one word may mean anything
    assert not FILMS("star boats")  # no title has both
    assert not FILMS("a comedy with star wars").titles
    assert SHOP("a teapot").titles == (NamedTitle(("teapot",)),)
    assert not SHOP("blue").titles  # a facet


def test_a_title_that_no_item_has_is_not_named() -> None:
    assert not FILMS("with 'zebra' in the title").titles
