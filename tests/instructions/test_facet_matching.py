"""Which facets a request includes and excludes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.instructions.facet_matching import FacetMatcher, FacetMatches
from rayrec.instructions.facet_scheme import BELOW, CATEGORY, DECADE, VALUE, WORD, FacetScheme
from rayrec.instructions.facets import Facets
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.numerics.ragged import Ragged

NAMES = [
    *((CATEGORY, name) for name in ("comedy", "film-noir", "für kinder", "horror", "news", "sci-fi", "war", "western")),
    *((DECADE, name) for name in ("1980s", "1990s", "2000s")),
    *((BELOW, name) for name in ("10", "5")),
    *((VALUE, name) for name in ("other", "red")),
    *((WORD, name) for name in ("glass", "night")),
]
SCHEME = FacetScheme(tuple(k for k, _ in NAMES), tuple(n for _, n in NAMES), {})
NAMING = FacetMatcher(SCHEME)


def read(text: str) -> tuple[set[str], set[str]]:
    named = NAMING(text)
    return {SCHEME.name[n] for n in named.include}, {SCHEME.name[n] for n in named.exclude}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Comedies, please!", {"comedy"}),
        ("a western from the 90s", {"western", "1990s"}),
        ("Westerns of the nineties", {"western", "1990s"}),
        ("noughties", {"2000s"}),
        ("a war film like those of 1987", {"war", "1980s"}),
        ("scifi", {"sci-fi"}),
        ("sci fi or film noir", {"sci-fi", "film-noir"}),
        ("etwas für Kinder", {"für kinder"}),
        ("red, under £7", {"red", "5"}),
        ("no more than 10", {"10"}),
        ("under £1,500", {"10"}),
        ("a set of 5", set()),
        ("£6 or less", {"5"}),
        ("for a tenner", {"10"}),
        ("before 1990", {"1980s"}),
        ("since the eighties", {"1980s", "1990s", "2000s"}),
        ("from the 80s to the 90s", {"1980s", "1990s"}),
        ("after 1985", {"1990s", "2000s"}),
        ("some other thing", set()),  # a value that is only a stop word
        ("something new", set()),  # "new" is not matched as the singular of "news"
        ("something for the night", {"night"}),
        ("a horror for the night", {"horror"}),
        ("nothing but horror", {"horror"}),
        ("not too long a comedy", {"comedy"}),
        ("a comedy that is not too sad", {"comedy"}),
        ("I can't find a comedy", {"comedy"}),
        ("we cannot get enough of westerns", {"western"}),
        ("I have never seen a western", {"western"}),
        ("", set()),
    ],
)
def test_requested_facets_are_included(text: str, wanted: set[str]) -> None:
    assert read(text) == (wanted, set())


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("no horror", set(), {"horror"}),
        ("no horror, just comedies", {"comedy"}, {"horror"}),
        ("a comedy without war or horror", {"comedy"}, {"war", "horror"}),
        ("I don't like westerns", set(), {"western"}),
        ("anything but horror", set(), {"horror"}),
        ("comedy rather than horror", {"comedy"}, {"horror"}),
        ("something red, no glass", {"red"}, {"glass"}),
        ("a comedy with no glass", {"comedy"}, {"glass"}),
        ("no more war, but a western", {"western"}, {"war"}),
        ("western, not western", set(), {"western"}),
        ("I am sick of war films. Comedy?", {"comedy"}, {"war"}),
        ("my wife refuses to sit through war movies", set(), {"war"}),
        ("I'd prefer a comedy to a western", {"comedy"}, {"western"}),
        ("comedy, but westerns are out", {"comedy"}, {"western"}),
        ("war? no way", set(), {"war"}),
        ("not from the 80s", set(), {"1980s"}),
        ("nothing before 1990", {"1990s", "2000s"}, set()),
        ("not one made before 1990", set(), {"1980s"}),
        ("over 7", set(), {"10"}),
        ("between £5 and £12", {"10"}, {"5"}),
        ("we cannot stand horror", set(), {"horror"}),
        ("not in the mood for horror", set(), {"horror"}),
        ("I don't feel like another western, show me a comedy", {"comedy"}, {"western"}),
    ],
)
def test_negated_facets_are_excluded(text: str, wanted: set[str], unwanted: set[str]) -> None:
    assert read(text) == (wanted, unwanted)


@given(st.text(max_size=80))
def test_any_text_is_parsed_and_no_facet_is_both_included_and_excluded(text: str) -> None:
    named = NAMING(text)
    assert not set(named.include) & set(named.exclude)
    assert bool(named) == bool(named.include or named.exclude)
    assert NAMING(text) == named


@given(
    st.lists(st.sampled_from(["comedy", "western", "1990s", "red"]), unique=True, max_size=3),
    st.lists(st.sampled_from(["sofa", "for", "my", "aunt", "please", "££"]), max_size=6),
)
def test_surrounding_words_change_nothing(names: list[str], around: list[str]) -> None:
    assert read(", ".join([" ".join(around), *names, " ".join(around)])) == (set(names), set())


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_simulated_phrases_are_matched_as_intended(split: str) -> None:
    """All kinds of facets, in every phrase."""
    teacher = InstructionSimulator(Facets(SCHEME, Ragged.from_lengths(np.empty(0, np.int64), [])), split)  # type: ignore[arg-type]
    number = {name: n for n, (_, name) in enumerate(NAMES)}
    for place in range(60):
        for name in ("comedy", "1990s", "5", "red", "glass"):
            text = teacher.phrase([number[name]], number=place)
            assert read(text) == ({name}, set()), text
        text = teacher.phrase([number["comedy"]], [number["war"]], number=place)
        assert read(text) == ({"comedy"}, {"war"}), text


def test_without_facets_nothing_matches() -> None:
    assert FacetMatcher(FacetScheme((), (), {}))("a comedy, no war") == FacetMatches()
