"""Where the vectors of words begin: words that stand together in users' views begin close together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from rayrec.embeddings.source_views import View
from rayrec.embeddings.view_vocabulary import PAD


def initial_word_vectors(
    training_windows: Iterable[Mapping[str, View]], words: int, width: int
) -> npt.NDArray[np.float32]:
    """float32 [words, width] with a standard deviation of 1, zero for words that nobody has.

    The right singular vectors, times their values, of the matrix users x words: tf-idf (log(1 + count)), rows of length
    1. A user at each of the moments in `lessons` is a row.
    """
    rows, columns, users = [], [], 0
    for views in training_windows:
        for view in views.values():
            there = view.words != PAD
            of_line = users + np.repeat(np.arange(len(view.lengths)), view.lengths)
            rows.append(np.repeat(of_line, view.words.shape[1])[there.ravel()])
            columns.append(view.words[there])
        users += len(view.lengths)
    cells = np.concatenate(rows), np.concatenate(columns)
    matrix = sp.csr_matrix((np.ones(len(cells[0])), cells), shape=(users, words))
    matrix.data = np.log1p(matrix.data)
    seen = np.bincount(matrix.indices, minlength=words)
    matrix = matrix @ sp.diags(np.log((1 + users) / (1 + seen)))
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    matrix = sp.diags(1 / np.maximum(length, 1e-9)) @ matrix
    rank = min(width, users - 1, words - 1)
    out = np.zeros((words, width), np.float32)
    if rank > 0 and matrix.nnz:
        _, strength, directions = svds(matrix, k=rank, v0=np.ones(min(matrix.shape)))
        found = (directions.T * strength)[:, ::-1]
        out[:, :rank] = found / max(float(found[seen > 0].std()), 1e-9)
    return out
