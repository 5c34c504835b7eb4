"""Item content: terms of each view, TF-IDF against scikit-learn's formula by hand, catalogues without texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.item_content import VIEWS, item_content, tfidf
from rayrec.data.schemas import ITEM


def catalogue(*rows: tuple[str, str | None, dict[str, str]]) -> pa.Table:
    """ITEM rows from (title, category, attributes)."""
    columns = [
        [f"i{number:03d}" for number in range(len(rows))],
        [title for title, _, _ in rows],
        [category for _, category, _ in rows],
        [None] * len(rows),
        [True] * len(rows),
        [list(attributes.items()) for _, _, attributes in rows],
        [None] * len(rows),
    ]
    return pa.table([pa.array(c, ITEM.field(n).type) for n, c in enumerate(columns)], schema=ITEM)


def cosines(view: str, *rows: tuple[str, str | None, dict[str, str]]) -> np.ndarray:
    vectors = item_content(catalogue(*rows), [view])[view]
    return np.asarray((vectors @ vectors.T).todense())


def test_tfidf_is_its_formula() -> None:
    documents = [["a", "b", "b"], ["a"], ["c", "b"], ["z"]]  # c and z: one document each
    found = tfidf(lambda: documents).toarray()
    a, b = 1 + np.log(4 / 2), 1 + np.log(4 / 2)
    expected = np.array([[a, (1 + np.log(2)) * b], [a, 0], [0, b], [0, 0]])
    lengths = np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    assert np.allclose(found, expected / lengths, atol=1e-6)


def test_categories_have_many_values() -> None:
    similar = cosines(
        "category", ("x", "Drama|Crime", {}), ("y", "crime; drama", {}), ("z", "Drama", {}), ("w", None, {})
    )
    assert similar[0, 1] == pytest.approx(1)
    assert 0 < similar[0, 2] < 1
    assert not similar[3].any()


def test_near_numbers_share_bands_and_far_ones_do_not() -> None:
    rows = [("x", None, {"price": text}) for text in ("10", "11", "100", "101", "-10", "-11", "0", "0", "nan")]
    similar = cosines("attribute", *rows)
    assert similar[0, 1] > 0.4
    assert similar[0, 2] == 0
    assert similar[0, 4] == 0
    assert similar[6, 7] == pytest.approx(1)
    assert not similar[8].any()
    years = cosines("attribute", *(("x", None, {"year": text}) for text in ("1994", "1996", "1991", "2014")))
    assert 0 < years[0, 1] < 1  # one decade, two half decades
    assert years[0, 2] > years[0, 1]
    assert years[0, 3] == 0


def test_the_year_of_a_title_is_no_word() -> None:
    similar = cosines("word", ("Heat (1995)", None, {}), ("Heat (1972)", None, {}), ("Casino (1995)", None, {}))
    assert similar[0, 1] == pytest.approx(1)
    assert similar[0, 2] == 0


def test_character_grams_see_what_words_do_not() -> None:
    rows = [("Batman", None, {}), ("Batmobile", None, {}), ("Gardening", None, {}), ("Gardens", None, {})]
    assert cosines("char", *rows)[0, 1] > 0
    assert cosines("char", *rows)[0, 2] == 0
    assert not cosines("word", *rows)[0, 1:].any()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("rows", [[], [("", None, {})], [("one", "kind", {"price": "3"})], [("", "a", {})] * 3])
def test_tiny_catalogues_have_vectors(view: str, rows: list[tuple[str, str | None, dict[str, str]]]) -> None:
    vectors = item_content(catalogue(*rows), [view])[view]
    assert vectors.shape[0] == len(rows)
    lengths = np.sqrt(np.asarray(vectors.multiply(vectors).sum(1)).ravel())
    assert np.all(np.isclose(lengths, 0) | np.isclose(lengths, 1))
