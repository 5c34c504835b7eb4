"""What the catalogue says about items, as sparse vectors: one matrix per view, rows of length 1 (or 0 without content).

    category   the parts of `category`, split at | > ; , /
    attribute  values of attributes; numbers as overlapping bands: years by 10 and 5, others by factors of 2
    word       the words of the title, without a year in brackets at its end
    char       character 4-grams of these words, with their bounds

Terms are weighted by TF-IDF; one that a single item has is left out. There is no language model in it. The vector of an
item depends on the catalogue alone.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

VIEWS = ("category", "attribute", "word", "char")
_SPLIT = re.compile(r"[|>;,/]")
_WORD = re.compile(r"\w+")
_YEAR_AT_END = re.compile(r"\(\d{4}\)\s*$")
_GRAM = 4
_MAX_CHARS = 300  # of a text that is read
_MAX_TERMS = 200_000  # of a view, the most frequent ones

Terms = Sequence[str]


def item_content(catalogue: pa.Table, views: Iterable[str] = VIEWS) -> dict[str, sp.csr_matrix]:
    """float32 CSR [items, terms] of each view of ITEM rows; a view without terms has 0 columns."""
    return {view: tfidf(partial(_TERMS[view], catalogue)) for view in views}


def tfidf(documents: Callable[[], Iterable[Terms]]) -> sp.csr_matrix:
    """Rows (1 + log tf) * (1 + log(n / df)), scaled to length 1; columns are terms in alphabetical order.

    `documents` is called twice, so that the texts' terms are never in memory at once.
    """
    frequency, total = Counter[str](), 0
    for terms in documents():
        frequency.update(set(terms))
        total += 1
    shared = sorted((-held, term) for term, held in frequency.items() if held > 1)[:_MAX_TERMS]
    column = {term: place for place, term in enumerate(sorted(term for _, term in shared))}
    indices, tf, lengths = array("i"), array("i"), np.zeros(total, np.int64)
    for row, terms in enumerate(documents()):
        known = sorted(Counter(column[term] for term in terms if term in column).items())
        indices.extend(place for place, _ in known)
        tf.extend(many for _, many in known)
        lengths[row] = len(known)
    places = np.array(indices, np.int32)
    idf = np.array([1 + np.log(total / frequency[term]) for term in column])
    values = (1 + np.log(np.array(tf, np.float64))) * (idf[places] if len(column) else 1)
    rows = np.repeat(np.arange(total), lengths)
    norm = np.sqrt(np.bincount(rows, values * values, minlength=total))
    values = (values / np.maximum(norm, 1e-12)[rows]).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_matrix((values, places, offsets), (total, len(column)))


def _categories(catalogue: pa.Table) -> Iterator[Terms]:
    for text in catalogue["category"].to_pylist():
        parts = (part.strip().lower() for part in _SPLIT.split((text or "")[:_MAX_CHARS]))
        yield [part for part in parts if part]


def _attributes(catalogue: pa.Table) -> Iterator[Terms]:
    for pairs in catalogue["attributes"].to_pylist():
        yield [term for name, text in pairs or () if text is not None for term in _bands(name, text)]


def _bands(name: str, text: str) -> Terms:
    try:
        number = float(text)
    except ValueError:
        return [f"{name}={text[:_MAX_CHARS].lower()}"]
    if not np.isfinite(number):
        return []
    if number == int(number) and 1800 <= number < 2200:
        return [f"{name} {int(number) // 10 * 10}s", f"{name} {int(number) // 5 * 5}-"]
    sign, size = ("-" if number < 0 else ""), abs(number)
    if not size:
        return [f"{name} 0"]
    step = int(np.floor(2 * np.log2(size)))  # two bands of a factor of 2 each overlap by half
    return [f"{name} {sign}{step}", f"{name} {sign}{step + 1}"]


def _words(catalogue: pa.Table) -> Iterator[Terms]:
    for title in catalogue["title"].to_pylist():
        yield _WORD.findall(_YEAR_AT_END.sub("", title[:_MAX_CHARS].lower()))


def _grams(catalogue: pa.Table) -> Iterator[Terms]:
    for words in _words(catalogue):
        bounded = [f" {word} " for word in words]
        yield [word[at : at + _GRAM] for word in bounded for at in range(max(1, len(word) - _GRAM + 1))]


_TERMS: Mapping[str, Callable[[pa.Table], Iterator[Terms]]] = {
    "category": _categories,
    "attribute": _attributes,
    "word": _words,
    "char": _grams,
}
