"""The largest cells of a sparse product, compared with numpy's product."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.numerics.sparse_products import (
    dense_gram,
    dense_product,
    largest_of_product,
    largest_of_rows,
    row_blocks,
)


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 60), st.booleans())
def test_the_largest_cells_of_each_row_in_any_blocks(seed: int, most: int, block_cells: int, per_row: bool) -> None:
    random = np.random.default_rng(seed)
    left, right = (
        sp.csr_matrix(random.integers(0, 3, shape).astype(np.float32)) for shape in ((9, 6), (6, 11))
    )  # small numbers: many ties
    limit = random.integers(0, most + 1, 9) if per_row else np.full(9, most)
    product = (left @ right).toarray()
    expected = np.zeros_like(product)
    for row, cells in enumerate(product):
        largest = np.argsort(-cells, kind="stable")[: limit[row]]
        expected[row, largest] = cells[largest]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rayrec.numerics.sparse_products._BLOCK_CELLS", block_cells)
        found = largest_of_product(left, right, limit if per_row else most)
    assert np.array_equal(found.toarray(), expected)
    assert found.has_sorted_indices
    assert found.dtype == np.float32


def test_scales_divide_and_the_diagonal_is_left_out() -> None:
    random = np.random.default_rng(0)
    x = sp.csr_matrix((random.random((20, 7)) < 0.5).astype(np.float32))
    norm = np.sqrt(np.asarray(x.multiply(x).sum(0), np.float64).ravel())
    found = largest_of_product(
        x.T.tocsr(), x, 7, row_scale=norm, column_scale=norm, shrink=2.0, without_diagonal=True
    ).toarray()
    expected = (x.T @ x).toarray() / (np.outer(norm, norm) + 2)
    np.fill_diagonal(expected, 0)
    assert np.allclose(found, expected, atol=1e-7)


def test_a_dense_product_has_the_bits_of_the_sparse_one() -> None:
    random = np.random.default_rng(1)
    x = sp.random(90, 40, 0.2, "csr", np.float32, random)
    y = sp.random(90, 30, 0.3, "csr", np.float32, random)
    assert np.array_equal(dense_product(x.T.tocsr(), y), largest_of_product(x.T.tocsr(), y, 30).toarray())
    gram = dense_gram(x.T.tocsr(), x)
    assert np.array_equal(gram, largest_of_product(x.T.tocsr(), x, 40).toarray())
    norm = np.sqrt(gram.diagonal().astype(np.float64))
    scales = {"row_scale": norm, "column_scale": norm, "shrink": 3.0}
    fewer = largest_of_product(x.T.tocsr(), x, 5, without_diagonal=True, **scales)
    of_gram = largest_of_rows(gram, 5, **scales)
    assert np.array_equal(of_gram.toarray(), fewer.toarray())
    assert of_gram.has_sorted_indices


def test_an_empty_matrix_has_an_empty_product() -> None:
    assert largest_of_product(sp.csr_matrix((0, 4)), sp.csr_matrix((4, 3)), 2).shape == (0, 3)
    assert largest_of_product(sp.csr_matrix((5, 4)), sp.csr_matrix((4, 3)), 2).nnz == 0


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 30))
def test_row_blocks_cover_all_rows_and_hold_at_most_the_cells(lengths: list[int], cells: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    blocks = row_blocks(offsets, cells)
    assert [row for first, last in blocks for row in range(first, last)] == list(range(len(lengths)))
    assert all(last - first == 1 or offsets[last] - offsets[first] <= cells for first, last in blocks)
