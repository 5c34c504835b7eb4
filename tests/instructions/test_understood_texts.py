"""What texts mean, as the table that workers read; and the match of candidates."""

from __future__ import annotations

import numpy as np
import pytest

from rayrec.data.schemas import UNDERSTOOD_TEXT
from rayrec.instructions.bm25 import Bm25
from rayrec.instructions.facet_scheme import CATEGORY, DECADE, FacetScheme
from rayrec.instructions.facets import Facets
from rayrec.instructions.request_understanding import RequestUnderstanding, Understanding
from rayrec.instructions.title_search import NamedTitle, TitleIndex
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.request_candidates import candidate_match, request_match
from rayrec.pipeline.understood_texts import UnderstoodTexts, understood_rows

SCHEME = FacetScheme((CATEGORY, CATEGORY, DECADE), ("comedy", "horror", "1990s"), {})
FACETS = Facets(SCHEME, Ragged.from_lengths(np.array([0, 0, 2, 1, 0, 1]), [1, 2, 1, 2, 0]))
NO_TITLES = TitleIndex([])
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
    assert request_match(FACETS, NO_TITLES, meaning).tolist() == [0.5, 1.5, -1.0, -0.5, 0.0]
    candidate = Ragged.from_lengths(np.array([4, 1, 0, 3], np.int32), [2, 1, 1])
    match = candidate_match(FACETS, NO_TITLES, [meaning, Understanding(), meaning], candidate)
    assert match.tolist() == [0.0, 1.5, 0.0, -0.5]


def test_a_named_title_counts_as_a_facet_does() -> None:
    titles = TitleIndex(["The Sea", "Fish", "Sea of Fish", "Boat", "Seas"])
    meaning = Understanding(((0, 0.5),), titles=(NamedTitle(("sea",)), NamedTitle(("fish",), -1.0)))
    assert request_match(FACETS, titles, meaning).tolist() == [1.5, -0.5, 0.0, 0.5, 1.0]
    candidate = Ragged.from_lengths(np.array([4, 2, 0], np.int32), [2, 1])
    assert candidate_match(FACETS, titles, [meaning, Understanding()], candidate).tolist() == [1.0, 0.0, 0.0]


def test_named_titles_are_read_back() -> None:
    understanding = RequestUnderstanding.of(SCHEME, titles=TitleIndex(["The Sea", "Pulp Fiction"]))
    texts = ["a comedy with 'sea' in the title", "nothing called Pulp Fiction", "mortgage rates"]
    known = UnderstoodTexts(understood_rows(texts, understanding, Bm25([])))
    assert known[texts[0]] == Understanding(((0, 1.0),), (), (NamedTitle(("sea",)),))
    assert known[texts[1]].titles == (NamedTitle(("pulp", "fiction"), -1.0),)
    assert [known.is_understood(text) for text in texts] == [True, True, False]
