"""The facet scheme of a catalogue: categories, decades, price bounds and title words, and their extraction from items.

    category   each part of `category`, split at | > ; , /
    decade     of a numeric attribute whose values are years
    below      prices and other numeric attributes: less than a round number; the sets are nested
    value      a value of any other attribute
    word       a word that enough titles share, unless it is a stop word (stopwords.yaml)

The scheme is learned once from the whole catalogue and stored with the model. Given a scheme, the facets of an item
depend on that item alone, not on the texts of other items.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.instructions.text_cleaning import clean
from rayrec.instructions.vocabulary_filter import stop_words
from rayrec.numerics.ragged import Ragged

CATEGORY, DECADE, BELOW, VALUE, WORD = "category", "decade", "below", "value", "word"
KINDS = (CATEGORY, DECADE, BELOW, VALUE, WORD)
_MIN_ITEMS = 5  # per facet
# Largest share of the items, by kind: half of all films are dramas, and "under 5" is useful even if most prices are.
_MAX_SHARE = {CATEGORY: 0.8, DECADE: 0.8, BELOW: 0.95, VALUE: 0.8, WORD: 0.5}
_WORDS, _VALUES, _CHARS = 300, 200, 40
_TEXTS = 4096  # distinct texts of each kind in the caches
_NUMERIC = 0.8  # smallest share of numbers among the values of a numeric attribute
_ROUND = tuple(m * 10.0**e for e in range(-2, 7) for m in (1.0, 2.0, 5.0))
_SPLIT = re.compile(r"[|>;,/]")
_WORD = re.compile(r"[a-z]{3,}")


@dataclass(frozen=True)
class FacetScheme:
    """F facets, sorted by kind and name, independent of the order of items.

    `attributes`: name -> the kind of facet its values become. Other attributes are free text.
    """

    kind: tuple[str, ...]
    name: tuple[str, ...]  # as in a sentence: "drama", "1990s", "5"
    attributes: Mapping[str, str]

    @classmethod
    def of(cls, catalogue: pa.Table) -> FacetScheme:
        """Learn the scheme from ITEM."""
        items = catalogue.num_rows
        attributes = _attributes(catalogue)
        categories = {part for text in catalogue["category"].to_pylist() for part in _parts(text)}
        words = _common_words(catalogue, without=categories)
        held = Counter[tuple[str, str]]()
        for pairs in _candidate_facets(catalogue, attributes, words):
            held.update(set(pairs))
        most = {kind: max(_MAX_SHARE[kind] * items, _MIN_ITEMS) for kind in KINDS}
        usable = [pair for pair, count in held.items() if _MIN_ITEMS <= count <= most[pair[0]]]
        names = sorted(usable, key=lambda pair: (KINDS.index(pair[0]), pair[1]))
        return cls(tuple(kind for kind, _ in names), tuple(name for _, name in names), attributes)

    def of_items(self, catalogue: pa.Table) -> Ragged:
        """The facets of each item of ITEM, int64 numbers, ascending, one row an item."""
        number = {pair: facet for facet, pair in enumerate(zip(self.kind, self.name, strict=True))}
        words = frozenset(name for kind, name in number if kind == WORD)
        rows = [
            sorted({number[pair] for pair in pairs if pair in number})
            for pairs in _candidate_facets(catalogue, self.attributes, words)
        ]
        values = np.fromiter((facet for row in rows for facet in row), np.int64)
        return Ragged.from_lengths(values, [len(row) for row in rows])

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FacetScheme:
        """From the result of `dataclasses.asdict`. Raises KeyError, TypeError or ValueError for anything else."""
        kind, name, attributes = tuple(content["kind"]), tuple(content["name"]), dict(content["attributes"])
        if len(kind) != len(name) or not {*kind, *attributes.values()} <= set(KINDS):
            raise ValueError("not a facet scheme")
        return cls(kind, name, attributes)


def _candidate_facets(
    catalogue: pa.Table, attributes: Mapping[str, str], words: frozenset[str]
) -> Iterator[list[tuple[str, str]]]:
    """Candidate facets of each item as (kind, name), from its own texts alone; may contain duplicates."""
    parsers = [(name, kind, _PARSERS[kind]) for name, kind in sorted(attributes.items())]
    columns = (catalogue[name].to_pylist() for name in ("category", "attributes", "title"))
    for category, pairs, title in zip(*columns, strict=True):
        found = [(CATEGORY, part) for part in _parts(category)]
        own = dict(pairs or ())
        for attribute, kind, parse in parsers:
            if (text := own.get(attribute)) is not None:
                found += [(kind, name) for name in parse(text)]
        yield found + [(WORD, word) for word in _WORD.findall(title.lower()) if word in words]


def _common_words(catalogue: pa.Table, without: Iterable[str]) -> frozenset[str]:
    """The words that most titles share; ties are broken alphabetically."""
    shared = Counter(word for title in catalogue["title"].to_pylist() for word in set(_WORD.findall(title.lower())))
    no_names = stop_words().union(without)
    common = sorted((-count, word) for word, count in shared.items() if word not in no_names)
    return frozenset(word for _, word in common[:_WORDS])


def _attributes(catalogue: pa.Table) -> dict[str, str]:
    texts: dict[str, list[str]] = {}
    for pairs in catalogue["attributes"].to_pylist():
        for name, text in dict(pairs or ()).items():
            if text is not None:
                texts.setdefault(name, []).append(text)
    kinds = {name: _kind_of(values) for name, values in sorted(texts.items())}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _kind_of(texts: Sequence[str]) -> str | None:
    """The kind of facet for an attribute with these values; None for free text."""
    numbers = [number for number in map(_number, texts) if number is not None]
    if len(numbers) >= _NUMERIC * len(texts):
        years = all(number == int(number) and 1800 <= number < 2200 for number in numbers)
        return DECADE if years else BELOW
    return VALUE if len(set(texts)) <= _VALUES else None


@lru_cache(_TEXTS)
def _parts(category: str | None) -> tuple[str, ...]:
    parts = (clean(part, _CHARS).lower() for part in _SPLIT.split(category or ""))
    return tuple(part for part in parts if part and not part.startswith("("))


@lru_cache(_TEXTS)
def _values(text: str) -> tuple[str, ...]:
    value = clean(text, _CHARS).lower()
    return (value,) if value else ()


@lru_cache(_TEXTS)
def _decades(text: str) -> tuple[str, ...]:
    number = _number(text)
    return () if number is None else (f"{int(number) // 10 * 10}s",)


@lru_cache(_TEXTS)
def _bounds(text: str) -> tuple[str, ...]:
    number = _number(text)
    return () if number is None else tuple(f"{bound:.12g}" for bound in _ROUND if number < bound)


_PARSERS: Mapping[str, Callable[[str], tuple[str, ...]]] = {VALUE: _values, DECADE: _decades, BELOW: _bounds}


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
