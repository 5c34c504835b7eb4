"""Item-item cells in the codes of another catalogue, with and without the short way for codes in the same order."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from rayrec.retrieval.item_item import remap_cells

OLD, NEW = 40, 60


@pytest.mark.parametrize("kind", ["same order", "another order", "some left"])
def test_cells_move_with_their_items(kind: str) -> None:
    rng = np.random.default_rng(0)
    codes = rng.permutation(NEW)[:OLD]
    if kind == "same order":
        codes = np.sort(codes)
    if kind == "some left":
        codes[rng.permutation(OLD)[:10]] = -1
    weights = sp.random(OLD, OLD, 0.2, "csr", np.float32, random_state=0)
    expected = np.zeros((NEW, NEW), np.float32)
    stays = np.flatnonzero(codes >= 0)
    expected[np.ix_(codes[stays], codes[stays])] = weights.toarray()[np.ix_(stays, stays)]
    found = remap_cells(weights, codes, NEW)
    assert found.shape == (NEW, NEW)
    assert np.array_equal(found.toarray(), expected)
    assert all((np.diff(found.indices[a:b]) > 0).all() for a, b in zip(found.indptr, found.indptr[1:], strict=False))
