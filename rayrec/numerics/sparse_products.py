"""Products of sparse matrices of which only the largest cells of each row are stored, row by row.

A row of the product is summed in one dense vector and reduced at once, so memory is bounded by the result. Rows are
independent: neither the number of threads nor the other rows change a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from rayrec.numerics.jit import jit
from rayrec.numerics.types import Float64s, Int64s

_BLOCK_CELLS = 16_000_000  # cells of a block before they are cut to their number: 128 MB


def largest_of_rows(
    dense: npt.NDArray[np.float32], limit: int, *, row_scale: Float64s, column_scale: Float64s, shrink: float
) -> sp.csr_matrix:
    """`largest_of_product` without the diagonal of a product that is there, dense [n, n]; cells of 0 are none."""
    size = len(dense)
    lengths, index, value = np.zeros(size, np.int64), [], []

    def block(first: int, last: int) -> tuple[Int64s, npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        return _largest_of_dense(dense, row_scale, column_scale, shrink, limit, first, last)  # type: ignore[no-any-return]

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        starts = list(range(0, size, 256))
        for start, found in zip(
            starts, threads.map(lambda start: block(start, min(start + 256, size)), starts), strict=True
        ):
            lengths[start : start + 256] = found[0]
            index.append(found[1])
            value.append(found[2])
    indices = np.concatenate([np.zeros(0, np.int32), *index])
    data = np.concatenate([np.zeros(0, np.float32), *value])
    return sp.csr_matrix((data, indices, np.concatenate([[0], np.cumsum(lengths)])), shape=(size, size))


def largest_of_product(
    left: sp.csr_matrix,
    right: sp.csr_matrix,
    limit: int | Int64s,
    *,
    row_scale: Float64s | None = None,
    column_scale: Float64s | None = None,
    shrink: float = 1.0,
    without_diagonal: bool = False,
) -> sp.csr_matrix:
    """float32 CSR of the `limit` largest cells of each row of left @ right, indices sorted; ties: the lower column.

    `limit`: one number, or one per row. With scales, cell (i, j) is divided by row_scale[i] * column_scale[j] + shrink
    before it is compared (a cosine: the norms). Not sparse-dot-topn 1.2: there ties do not go to the lower column, so
    on binary data 9 in 10 rows would differ, and it has neither scales nor a limit per row.
    """
    rows, columns = left.shape[0], right.shape[1]
    limits = np.broadcast_to(np.asarray(limit, np.int64), rows)
    products = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices], dtype=np.int64)])
    most = np.minimum(np.minimum(np.diff(products[left.indptr]), columns), limits)
    offsets = np.concatenate([[0], np.cumsum(most)])
    scales = (
        np.zeros(rows) if row_scale is None else row_scale.astype(np.float64),
        np.zeros(columns) if column_scale is None else column_scale.astype(np.float64),
    )
    arrays = (*_parts(left), *_parts(right))

    def block(first: int, last: int) -> tuple[Int64s, npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        return _largest_of_rows(  # type: ignore[no-any-return]
            *arrays, *scales, shrink, without_diagonal, columns, limits, offsets, first, last
        )

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        blocks = list(threads.map(lambda ends: block(*ends), row_blocks(offsets, _BLOCK_CELLS)))
    lengths = np.concatenate([np.zeros(0, np.int64), *(found[0] for found in blocks)])
    indices = np.concatenate([np.zeros(0, np.int32), *(found[1] for found in blocks)])
    data = np.concatenate([np.zeros(0, np.float32), *(found[2] for found in blocks)])
    return sp.csr_matrix((data, indices, np.concatenate([[0], np.cumsum(lengths)])), shape=(rows, columns))


def dense_product(left: sp.csr_matrix, right: sp.csr_matrix) -> npt.NDArray[np.float32]:
    """left @ right as dense float32 [rows, columns]: for results of which most cells are there. A cell is summed in the
    order of left's row, as in `largest_of_product`."""
    out = np.zeros((left.shape[0], right.shape[1]), np.float32)
    arrays = (*_parts(left), *_parts(right))
    _each_block(left, right, lambda first, last: _dense_rows(*arrays, out, first, last, False))
    return out


def dense_gram(by_item: sp.csr_matrix, matrix: sp.csr_matrix) -> npt.NDArray[np.float32]:
    """X'X [items, items] from X' and X, both CSR: `dense_product` with half of its work."""
    matrix = matrix if matrix.has_sorted_indices else matrix.sorted_indices()
    out = np.zeros((matrix.shape[1], matrix.shape[1]), np.float32)
    arrays = (*_parts(by_item), *_parts(matrix))
    _each_block(by_item, matrix, lambda first, last: _dense_rows(*arrays, out, first, last, True))
    for start in range(0, len(out), 1024):
        stop = min(start + 1024, len(out))
        out[stop:, start:stop] = out[start:stop, stop:].T
        corner = np.triu(out[start:stop, start:stop])
        out[start:stop, start:stop] = corner + np.triu(corner, 1).T
    return out


def _each_block(left: sp.csr_matrix, right: sp.csr_matrix, work: Callable[[int, int], None]) -> None:
    """Call `work` for blocks of rows of about equal cost, on torch's number of threads."""
    products = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices], dtype=np.int64)])[left.indptr]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(lambda ends: work(*ends), row_blocks(products, max(1, int(products[-1]) // 64))))


def row_blocks(offsets: Int64s, cells: int) -> list[tuple[int, int]]:
    """Consecutive rows with at most `cells` cells together, at least one row each; `offsets` [rows + 1]."""
    blocks, first, rows = [], 0, len(offsets) - 1
    while first < rows:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + cells, side="right")) - 1)
        blocks.append((first, last))
        first = last
    return blocks


def _parts(matrix: sp.csr_matrix) -> tuple[Any, Any, Any]:
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32, copy=False), matrix.data


@jit
def _dense_rows(  # type: ignore[no-untyped-def]
    left_ptr, left_index, left_value, right_ptr, right_index, right_value, out, first, last, upper,
):  # fmt: skip
    """Rows of the product; `upper`: only columns from the row's own number on, of sorted right rows."""
    for row in range(first, last):
        least = row if upper else 0
        total = out[row]
        for a in range(left_ptr[row], left_ptr[row + 1]):
            weight, through = left_value[a], left_index[a]
            for b in range(right_ptr[through + 1] - 1, right_ptr[through] - 1, -1):
                column = right_index[b]
                if column < least:
                    break
                total[column] += weight * right_value[b]


@jit
def _largest_of_rows(  # type: ignore[no-untyped-def]
    left_ptr, left_index, left_value, right_ptr, right_index, right_value,
    row_scale, column_scale, shrink, without_diagonal, columns, limits, offsets, first, last,
):  # fmt: skip
    total = np.zeros(columns, np.float32)
    mark = np.full(columns, -1, np.int64)
    touched = np.empty(columns, np.int32)
    lengths = np.zeros(last - first, np.int64)
    out_index = np.empty(offsets[last] - offsets[first], np.int32)
    out_value = np.empty(offsets[last] - offsets[first], np.float32)
    heap_value = np.empty(columns, np.float32)
    heap_column = np.empty(columns, np.int32)
    end = 0
    for row in range(first, last):
        count = 0
        for a in range(left_ptr[row], left_ptr[row + 1]):
            weight, through = left_value[a], left_index[a]
            for b in range(right_ptr[through], right_ptr[through + 1]):
                column = right_index[b]
                if mark[column] != row:
                    mark[column] = row
                    total[column] = 0
                    touched[count] = column
                    count += 1
                total[column] += weight * right_value[b]
        limit, held = limits[row], 0
        for place in range(count):
            column = touched[place]
            if without_diagonal and column == row:
                continue
            value = np.float32(total[column] / (row_scale[row] * column_scale[column] + shrink))
            total[column] = value
            if count <= limit:
                heap_column[held] = column
                held += 1
            else:
                held = push(heap_value, heap_column, held, limit, value, column)
        for column in np.sort(heap_column[:held]):
            out_index[end] = column
            out_value[end] = total[column]
            end += 1
        lengths[row - first] = held
    return lengths, out_index[:end].copy(), out_value[:end].copy()


@jit
def _largest_of_dense(dense, row_scale, column_scale, shrink, limit, first, last):  # type: ignore[no-untyped-def]
    size = dense.shape[1]
    limit = min(limit, size)
    lengths, end = np.zeros(last - first, np.int64), 0
    out_index, out_value = np.empty((last - first) * limit, np.int32), np.empty((last - first) * limit, np.float32)
    heap_value, heap_column = np.empty(limit + 1, np.float32), np.empty(limit + 1, np.int32)
    scaled = np.empty(size, np.float32)
    for row in range(first, last):
        held = 0
        for column in range(size):
            if dense[row, column] != 0 and column != row:
                value = np.float32(dense[row, column] / (row_scale[row] * column_scale[column] + shrink))
                scaled[column] = value
                held = push(heap_value, heap_column, held, limit, value, column)
        for column in np.sort(heap_column[:held]):
            out_index[end] = column
            out_value[end] = scaled[column]
            end += 1
        lengths[row - first] = held
    return lengths, out_index[:end].copy(), out_value[:end].copy()


@jit
def push(heap_value, heap_column, held, limit, value, column):  # type: ignore[no-untyped-def]
    """Offer a cell to a heap of the `limit` best; returns how many it holds. The root is the worst cell.

    A cell is better with a larger value, and of equal values with the lower column.
    """
    if held < limit:
        at = held
        while at > 0:
            above = (at - 1) // 2
            if heap_value[above] < value or (heap_value[above] == value and heap_column[above] > column):
                break
            heap_value[at], heap_column[at] = heap_value[above], heap_column[above]
            at = above
        heap_value[at], heap_column[at] = value, column
        return held + 1
    if limit == 0 or value < heap_value[0] or (value == heap_value[0] and column > heap_column[0]):
        return held
    at = 0
    while True:
        below = 2 * at + 1
        if below >= limit:
            break
        other = below + 1
        if other < limit and (
            heap_value[other] < heap_value[below]
            or (heap_value[other] == heap_value[below] and heap_column[other] > heap_column[below])
        ):
            below = other
        if value < heap_value[below] or (value == heap_value[below] and column > heap_column[below]):
            break
        heap_value[at], heap_column[at] = heap_value[below], heap_column[below]
        at = below
    heap_value[at], heap_column[at] = value, column
    return held
