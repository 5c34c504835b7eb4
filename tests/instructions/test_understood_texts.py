"""What texts mean, as the table that workers read; and the match of candidates."""

from __future__ import annotations

import numpy as np
import pytest

from rayrec.data.schemas import UNDERSTOOD_TEXT
from rayrec.instructions.bm25 import Bm25
from rayrec.instructions.facet_scheme import CATEGORY, DECADE, FacetScheme
from rayrec.instructions.facets import Facets
from rayrec.instructions.request_understanding import RequestUnderstanding, Understanding
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.request_candidates import candidate_match, facet_match
from rayrec.pipeline.understood_texts import UnderstoodTexts, understood_rows

SCHEME = FacetScheme((CATEGORY, CATEGORY, DECADE), ("comedy", "horror", "1990s"), {})
FACETS = Facets(SCHEME, Ragged.from_lengths(np.array([0, 0, 2, 1, 0, 1]), [1, 2, 1, 2, 0]))
TEXTS = ["a comedy, no horror", "Pulp Fiction", "fiction of the sea and the sky", "mortgage rates"]


@pytest.fixture(scope="module")
def known() -> UnderstoodTexts:
    index = Bm25(["Pulp Fiction (1994)", "The Sea"])
    return UnderstoodTexts(understood_rows(TEXTS, RequestUnderstanding.of(SCHEME), index))


def test_a_text_is_read_back_as_it_was_understood(known: UnderstoodTexts) -> None:
    assert known[TEXTS[0]] == Understanding(((0, 1.0), (1, -1.0)))
    assert known[TEXTS[3]] == Understanding((), ("mortgage rates",))
    with pytest.raises(KeyError):
        known["another text"]


def test_a_text_with_most_words_of_a_title_is_a_search(known: UnderstoodTexts) -> None:
    assert [known.is_understood(text) for text in TEXTS] == [True, True, False, False]


def test_without_texts_there_is_nothing_to_look_up() -> None:
    with pytest.raises(KeyError):
        UnderstoodTexts(UNDERSTOOD_TEXT.empty_table())["a comedy"]


def test_an_items_match_is_the_sum_of_its_facets_weights() -> None:
    meaning = Understanding(((0, 0.5), (1, -1.0), (2, 1.0)))
    assert facet_match(FACETS, meaning).tolist() == [0.5, 1.5, -1.0, -0.5, 0.0]
    candidate = Ragged.from_lengths(np.array([4, 1, 0, 3], np.int32), [2, 1, 1])
    match = candidate_match(FACETS, [meaning, Understanding(), meaning], candidate)
    assert match.tolist() == [0.0, 1.5, 0.0, -0.5]
