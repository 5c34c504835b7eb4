"""Item factors of items with few events, mapped from their texts by ridge regression (AlphaRec, arXiv 2407.05441).

With t_i the text vector of item i and v_i its factors, W minimises  sum_i |v_i - W' t_i|^2 + r |W|^2  over items with
events. Its closed form in terms of items, not of words, since texts have more words than there are items that decide:

    v_j = T_j T' (T T' + r I)^-1 V
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.linalg import cho_factor, cho_solve

from rayrec.numerics.types import Bools, Float32s, Float64s

MAX_KNOWN = 5000  # items that W is learned from, those with the most events: the solve is cubic in them
_BLOCK_CELLS = 8 << 20


def mapped_factors(
    vectors: sp.csr_matrix, factors: Float32s, events: Float64s, new: Bools, regularization: float
) -> Float32s:
    """The factors [items, d], of `new` items from their texts.

    `vectors`: text vectors, float32 CSR [items, terms]; `events` [items]: items without any teach nothing.
    """
    order = np.argsort(-events, kind="stable")
    known = np.sort(order[: min(MAX_KNOWN, int(np.count_nonzero(events)))])
    known, result = known[~new[known]], factors.copy()
    result[new] = 0
    if not len(known) or not new.any():
        return result
    texts = vectors[known].astype(np.float64)
    gram = (texts @ texts.T).toarray()
    gram[np.diag_indices_from(gram)] += regularization
    weights = cho_solve(cho_factor(gram, lower=True, overwrite_a=True), factors[known].astype(np.float64))
    result[new] = (vectors[new] @ (texts.T @ weights)).astype(np.float32)
    return result


def nearest_by_factors(factors: Float32s, new: Bools, known: Bools, neighbours: int) -> sp.csr_matrix:
    """float32 CSR [items, items]: in the row of each new item, the cosines above 0 of its nearest known items."""
    items, codes, others = len(factors), np.flatnonzero(new), np.flatnonzero(known)
    norm = np.linalg.norm(factors, axis=1, keepdims=True)
    unit = factors / np.where(norm > 1e-12, norm, 1)
    rows, columns, values = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    step = max(1, _BLOCK_CELLS // max(len(others), 1))
    for start in range(0, len(codes), step) if len(others) else ():
        block = codes[start : start + step]
        cosine = unit[block] @ unit[others].T
        cosine[block[:, None] == others[None, :]] = 0  # an item is not its own neighbour
        best = np.argsort(-cosine, axis=1, kind="stable")[:, :neighbours]
        found = np.take_along_axis(cosine, best, axis=1)
        kept = found > 0
        rows.append(np.repeat(block, kept.sum(1)))
        columns.append(others[best[kept]])
        values.append(found[kept])
    cells = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return sp.csr_matrix(cells, shape=(items, items), dtype=np.float32)
