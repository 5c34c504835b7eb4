from __future__ import annotations

import numpy as np
import pytest

from rayrec.instructions.bm25 import Bm25


def test_scores_match_the_formula() -> None:
    texts = ["red lamp", "red red chair", "blue lamp shade with a switch"]
    scores = Bm25(texts).scores(["lamp", "red", "green", "lamp red lamp"])
    lengths = np.array([2, 3, 6])
    norm = 1.2 * (0.25 + 0.75 * lengths / lengths.mean())
    idf = np.log1p((3 - 2 + 0.5) / (2 + 0.5))  # both words are in two of the three documents
    lamp = np.array([1 / (1 + norm[0]), 0, 1 / (1 + norm[2])]) * idf
    red = np.array([1 / (1 + norm[0]), 2 / (2 + norm[1]), 0]) * idf
    np.testing.assert_allclose(scores, [lamp, red, [0, 0, 0], lamp + red], rtol=1e-6)


@pytest.mark.parametrize("texts", [[], [""], ["", "a"]])
def test_empty_texts_match_nothing(texts: list[str]) -> None:
    scores = Bm25(texts).scores(["", "word"])
    assert scores.shape == (2, len(texts))
    assert not scores.any()
