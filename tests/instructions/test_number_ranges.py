"""Ranges of years and prices in words."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.instructions.number_ranges import number_ranges
from rayrec.instructions.vocabulary_filter import tokenize_words

INF = math.inf


@pytest.mark.parametrize(
    ("text", "low", "high", "years"),
    [
        ("before 1970", -INF, 1970, True),
        ("older than the 60s", -INF, 1960, True),
        ("after the nineties", 2000, INF, True),
        ("since 1990", 1990, INF, True),
        ("1990 or later", 1990, INF, True),
        ("between 1975 and 1980", 1975, 1981, True),
        ("from the 60s to the 80s", 1960, 1990, True),
        ("until the 1980s", -INF, 1990, True),
        ("under £7.50", -INF, 7.5, False),
        ("five pounds at most", -INF, 5, False),
        ("no more than 3 quid", -INF, 3, False),
        ("more than 10 euros", 10, INF, False),
        ("a pound at most", -INF, 1, False),
        ("50p or less", -INF, 0.5, False),
        ("between 2 and 5 pounds", 2, 5, False),
        ("for a fiver", -INF, 5, False),
    ],
)
def test_a_range(text: str, low: float, high: float, years: bool) -> None:
    (found,) = number_ranges(tokenize_words(text))
    assert (found.low, found.high, found.years) == (low, high, years)


@pytest.mark.parametrize(
    "text",
    ["a set of 5", "more than one killer", "two of them", "the 60s and 70s", "5 to 2 pounds", "for 3 people", ""],
)
def test_no_range(text: str) -> None:
    assert not number_ranges(tokenize_words(text))


@given(
    st.lists(
        st.sampled_from(
            [
                "under",
                "over",
                "£",
                "5",
                "1990",
                "90s",
                "or",
                "less",
                "pounds",
                "between",
                "and",
                "to",
                "from",
                "the",
                "until",
            ]
        )
    )
)
def test_ranges_are_in_order_and_do_not_overlap(words: list[str]) -> None:
    found = number_ranges(words)
    assert all(one.low < one.high and 0 <= one.start < one.end <= len(words) for one in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
