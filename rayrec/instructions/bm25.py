"""BM25 (Robertson & Zaragoza 2009, with Lucene's idf, which is never below 0): how well words match short texts.

score(q, d) = sum over w in q of  log(1 + (N - n_w + .5) / (n_w + .5)) * tf / (tf + k1 (1 - b + b |d| / avg |d|))
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

_WORD = re.compile(r"\w+")
_K1, _B = 1.2, 0.75


class Bm25:
    """Ready to score queries against the documents it was built from."""

    def __init__(self, documents: Iterable[str]) -> None:
        self._words: dict[str, int] = {}
        rows, columns, lengths = [], [], []
        for row, text in enumerate(documents):
            found = _WORD.findall(text.lower())
            lengths.append(len(found))
            rows += [row] * len(found)
            columns += [self._words.setdefault(word, len(self._words)) for word in found]
        shape = (len(lengths), max(len(self._words), 1))
        count = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)  # the same cells add up
        length = np.array(lengths, np.float64)
        norm = _K1 * (1 - _B + _B * length / max(length.mean() if len(length) else 0.0, 1e-9))
        holding = np.bincount(count.indices, minlength=shape[1])
        idf = np.log1p((len(lengths) - holding + 0.5) / (holding + 0.5))
        at = np.repeat(norm, np.diff(count.indptr))
        count.data = count.data / (count.data + at) * idf[count.indices]
        self._weight = count.T.tocsr()  # [words, documents]

    def scores(self, queries: Sequence[str]) -> npt.NDArray[np.float32]:
        """[queries, documents]; 0 where no word matches. A word that is asked for twice counts once."""
        asked = [sorted({self._words[w] for w in _WORD.findall(text.lower()) if w in self._words}) for text in queries]
        indptr = np.concatenate([[0], np.cumsum([len(words) for words in asked])])
        indices = np.array([word for words in asked for word in words], np.int64)
        query = sp.csr_matrix((np.ones(len(indices)), indices, indptr), shape=(len(queries), self._weight.shape[0]))
        return np.asarray((query @ self._weight).todense(), np.float32)
