"""EASE for any catalogue: each item's ridge regression on its nearest items, instead of on all.

Column j of EASE's B solves (X_N'X_N + lambda I) b = X_N'x_j with N all other items. Here N are the items i with the
largest X_i'x_j / (X_i'X_i + lambda), their weight in a regression of one item; b is exact for these (Steck 2019,
"Markov random fields for collaborative filtering", uses the same approximation, with a threshold on the correlation).
Popular items have more neighbours: twice their users, within bounds. Then little is lost: docs/scale.md.

X_N'X_N is taken from lists of four times as many items, where a pair is missing if neither item lists the other. (From
the neighbours' own lists too many pairs were missing in a shop with long baskets: half of the recall was lost.) Exact
pivots of a Cholesky factorisation are at least lambda; missing pairs may break that, and a neighbour with a smaller
pivot is left out of the regression.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp
import torch

from rayrec.numerics.jit import jit
from rayrec.numerics.sparse_products import largest_of_product, row_blocks
from rayrec.numerics.types import Float32s, Int32s, Int64s

LEAST_NEIGHBOURS = 50
_NEIGHBOURS_PER_USER = 2
_PAIRS_PER_NEIGHBOUR = 4
_BLOCK_WORK = 200_000_000  # multiplications of a block


def neighbourhood_weights(matrix: sp.csr_matrix, regularization: float, neighbours: int) -> sp.csr_matrix:
    """B as float32 CSR [items, items], zero diagonal, from X [users, items]; at most `neighbours` cells a column."""
    items = matrix.shape[1]
    users = np.bincount(matrix.indices, minlength=items)
    limit = np.clip(_NEIGHBOURS_PER_USER * users, min(LEAST_NEIGHBOURS, neighbours), neighbours)
    square = np.asarray(matrix.multiply(matrix).sum(0), np.float64).ravel() + regularization
    by_item = matrix.T.tocsr()
    pairs = largest_of_product(
        by_item,
        matrix,
        _PAIRS_PER_NEIGHBOUR * limit,
        row_scale=np.ones(items),
        column_scale=square,
        shrink=0.0,
        without_diagonal=True,
    )
    pair_pointers = pairs.indptr.astype(np.int64)
    places, pointers = _largest_places(pair_pointers, pairs.data, limit)
    near = pairs.indices[places]
    pairs.data *= square[pairs.indices].astype(np.float32)  # X_i'x_j again
    cross, pair_parts = pairs.data[places], (pair_pointers, pairs.indices, pairs.data)
    lengths = np.diff(pointers)
    work = np.concatenate([[0], np.cumsum(lengths**3 // 6 + lengths * _PAIRS_PER_NEIGHBOUR * neighbours)])

    def block(first: int, last: int) -> Float32s:
        return _regressions(pointers, near, cross, *pair_parts, square, regularization, first, last)  # type: ignore[no-any-return]

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        found = list(threads.map(lambda ends: block(*ends), row_blocks(work, _BLOCK_WORK)))
    solved = np.concatenate([np.zeros(0, np.float32), *found])
    weights = sp.csr_matrix((solved, near, pointers), shape=(items, items)).T.tocsr()
    weights.sort_indices()
    return weights


@jit
def _largest_places(pointers: Int64s, value, limits):  # type: ignore[no-untyped-def]
    """The places of each row's largest values, at most its limit, ascending; ties: the first. And the rows' offsets."""
    rows = len(pointers) - 1
    ends = np.zeros(rows + 1, np.int64)
    for row in range(rows):
        ends[row + 1] = ends[row] + min(pointers[row + 1] - pointers[row], limits[row])
    places = np.empty(ends[rows], np.int64)
    for row in range(rows):
        start, count = pointers[row], ends[row + 1] - ends[row]
        if count == pointers[row + 1] - start:
            order = np.arange(count)
        else:
            order = np.sort(np.argsort(-value[start : pointers[row + 1]], kind="mergesort")[:count])
        places[ends[row] : ends[row + 1]] = start + order
    return places, ends


@jit
def _regressions(  # type: ignore[no-untyped-def]
    pointers: Int64s, near: Int32s, cross, pair_pointers, pair, pair_cross, square, regularization, first, last,
):  # fmt: skip
    """b of the items from `first` to `last`, aligned with their neighbours; square: X_i'X_i + lambda."""
    place = np.full(len(square), -1, np.int64)
    out = np.empty(pointers[last] - pointers[first], np.float32)
    for item in range(first, last):
        start, size = pointers[item], pointers[item + 1] - pointers[item]
        gram, solution = np.zeros((size, size)), np.empty(size)
        for k in range(size):
            place[near[start + k]] = k
        for k in range(size):
            other = near[start + k]
            gram[k, k] = square[other]
            solution[k] = cross[start + k]
            for a in range(pair_pointers[other], pair_pointers[other + 1]):
                p = place[pair[a]]
                if p >= 0:
                    gram[k, p] = pair_cross[a]
                    gram[p, k] = pair_cross[a]
        for k in range(size):
            place[near[start + k]] = -1
        _solve(gram, solution, regularization)
        for k in range(size):
            out[start - pointers[first] + k] = solution[k]
    return out


@jit
def _solve(gram, solution, floor):  # type: ignore[no-untyped-def]
    """gram^-1 solution, in place, by Cholesky (L D L'); an unknown with a pivot below `floor` is 0. Overwrites gram."""
    size = len(gram)
    for k in range(size):
        pivot = gram[k, k]
        if pivot < 0.99 * floor:  # more than rounding
            gram[k, k] = np.inf
            continue
        for i in range(k + 1, size):
            factor = gram[k, i] / pivot  # upper triangle: row k is contiguous
            if factor != 0:
                for j in range(i, size):
                    gram[i, j] -= factor * gram[k, j]
                solution[i] -= factor * solution[k]
    for k in range(size - 1, -1, -1):
        total = solution[k]
        if gram[k, k] == np.inf:
            solution[k] = 0
            continue
        for j in range(k + 1, size):
            total -= gram[k, j] * solution[j]
        solution[k] = total / gram[k, k]
