"""What words can say of the catalogue's items: categories, decades, prices and words of titles, as facets.

A request in words names facets ("drama from the 1990s, no war"); whether an item satisfies it is then a matter of
sets. The rules teacher (teachers/rules.py) speaks from these, and what is asked in tests and benchmarks is judged by
them.

    category   each part of `category`, split at | > ; , /
    decade     of a numeric attribute whose values are years
    below      prices and other numeric attributes: less than a round number; the sets are nested
    value      a value of any other attribute
    word       a word that enough titles share, unless it is a stop word (stopwords.yaml)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml

from rayrec.contracts.ragged import Ragged
from rayrec.instructions.cleaning import clean

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CATEGORY, DECADE, BELOW, VALUE, WORD = "category", "decade", "below", "value", "word"
KINDS = (CATEGORY, DECADE, BELOW, VALUE, WORD)
_FEWEST, _MOST_SHARE = 5, 0.5  # a facet holds at least so many items, and at most this share of them
_MOST_BELOW = 0.95  # of bounds: people who say "under 5" mean it where most things are
_WORDS, _VALUES, _CHARS = 300, 200, 40
_ROUND = tuple(m * 10.0**e for e in range(-2, 7) for m in (1.0, 2.0, 5.0))
_SPLIT = re.compile(r"[|>;,/]")
_WORD, _ANY_WORD = re.compile(r"[a-z]{3,}"), re.compile(r"\w+")


@dataclass(frozen=True)
class Facets:
    """F facets, and those of each item. `of_item`: int64 facet numbers, ascending, one row an item."""

    kind: tuple[str, ...]
    name: tuple[str, ...]  # as a sentence says it: "drama", "1990s", "5"
    of_item: Ragged

    @classmethod
    def of(cls, catalogue: pa.Table) -> Facets:
        """From ITEM. Facets in the order (kind, name), so that they do not depend on the order of items."""
        items = catalogue.num_rows
        most = {kind: max((_MOST_BELOW if kind == BELOW else _MOST_SHARE) * items, _FEWEST) for kind in KINDS}
        found: dict[tuple[str, str], list[int]] = {}
        for item, pairs in enumerate(_named(catalogue)):
            for pair in dict.fromkeys(pairs):
                found.setdefault(pair, []).append(item)
        usable = {pair: who for pair, who in found.items() if _FEWEST <= len(who) <= most[pair[0]]}
        names = sorted(usable, key=lambda pair: (KINDS.index(pair[0]), pair[1]))
        facet = np.repeat(np.arange(len(names)), [len(usable[pair]) for pair in names]).astype(np.int64)
        holder = np.array([one for pair in names for one in usable[pair]], np.int64)
        order = np.lexsort((facet, holder))
        of_item = Ragged.from_lengths(facet[order], np.bincount(holder, minlength=items))
        return cls(tuple(kind for kind, _ in names), tuple(name for _, name in names), of_item)

    def __len__(self) -> int:
        return len(self.name)

    def take(self, codes: Ints) -> Facets:
        """The same facets of these items [n], in this order."""
        lengths = self.of_item.lengths[codes]
        start = np.repeat(self.of_item.offsets[codes] - (np.cumsum(lengths) - lengths), lengths)
        values = self.of_item.values[start + np.arange(lengths.sum())]
        return Facets(self.kind, self.name, Ragged.from_lengths(values, lengths))

    def number(self, kind: str, name: str) -> int:
        """Raises KeyError where there is no such facet."""
        return self._numbers[kind, name]

    def has(self, item: Ints, facet: Ints) -> Bools:
        """Whether each item has the facet beside it, [n]."""
        key = item * len(self) + facet
        found: Bools = self._keys[np.searchsorted(self._keys[:-1], key)] == key
        return found

    def satisfied(self, item: Ints, include: Ints, exclude: Ints) -> Bools:
        """Which items [n] have every facet of `include` [n, a] and none of `exclude` [n, b]; -1 stands for nothing."""
        good = np.ones(len(item), np.bool_)
        for wanted, facets in ((True, include), (False, exclude)):
            for column in facets.T:
                asked = column >= 0
                good[asked] &= self.has(item[asked], column[asked]) == wanted
        return good

    def items_of(self, include: Sequence[int], exclude: Sequence[int] = ()) -> Bools:
        """The items, [items], that satisfy one request."""
        items = np.arange(len(self.of_item))
        both = [np.tile(np.asarray(part, np.int64), (len(items), 1)) for part in (include, exclude)]
        return self.satisfied(items, *both)

    def evenly(self, many: int, rng: np.random.Generator) -> Ints:
        """Items [many] by their facets: every kind as often as any other, and so every facet of a kind, and its items.

        Popular items and broad facets do not drown the rare ones. Raises ValueError where no item has a facet.
        """
        kinds = np.array([KINDS.index(kind) for kind in self.kind])[self.of_item.values]
        places = np.lexsort((self.of_item.values, kinds))
        facet, first, size = np.unique(self.of_item.values[places], return_index=True, return_counts=True)
        _, per_kind = np.unique(kinds[places][first], return_counts=True)
        share = np.repeat(1 / per_kind / len(per_kind), per_kind)
        # Facet numbers ascend by kind, so `facet` and `share` are in one order.
        chosen = rng.choice(len(facet), many, p=share)
        held = places[first[chosen] + (rng.random(many) * size[chosen]).astype(np.int64)]
        return np.asarray(self.of_item.rows[held], np.int64)

    @cached_property
    def size(self) -> Ints:
        """How many items have each facet, [F]."""
        return np.bincount(self.of_item.values, minlength=len(self)).astype(np.int64)

    @cached_property
    def _keys(self) -> Ints:
        """(item, facet) as one number, ascending; the last is none, for what would stand behind all."""
        return np.append(self.of_item.rows * len(self) + self.of_item.values, -1)

    @cached_property
    def _numbers(self) -> dict[tuple[str, str], int]:
        return {pair: number for number, pair in enumerate(zip(self.kind, self.name, strict=True))}


def meaningful_words(facets: Facets) -> frozenset[str]:
    """Words (runs of letters and digits) that facets are called by, or that turn a request round or set it a bound."""
    return frozenset(word for name in facets.name for word in _ANY_WORD.findall(name)) | _stop_words()["turning"]


def words_without_facets(facets: Facets) -> tuple[str, ...]:
    """What people may say without asking for anything: stop words that name no facet, sorted."""
    return tuple(sorted(stop_words() - meaningful_words(facets)))


def stop_words() -> frozenset[str]:
    """stopwords.yaml, in lower case."""
    return frozenset().union(*_stop_words().values())


@lru_cache(maxsize=1)
def _stop_words() -> Mapping[str, frozenset[str]]:
    text = resources.files(__package__).joinpath("stopwords.yaml").read_text(encoding="utf8")
    content: dict[str, str] = yaml.safe_load(text)
    return {group: frozenset(words.split()) for group, words in content.items()}


def _named(catalogue: pa.Table) -> Iterator[list[tuple[str, str]]]:
    """The facets of each item, by kind and name."""
    categories = [_parts(text) for text in catalogue["category"].to_pylist()]
    attributes = [dict(pairs or ()) for pairs in catalogue["attributes"].to_pylist()]
    named = sorted({name for row in attributes for name in row})
    readers = [reader for name in named if (reader := _reader(name, attributes)) is not None]
    titles = [_WORD.findall(title.lower()) for title in catalogue["title"].to_pylist()]
    shared = Counter(word for words in titles for word in set(words))
    taken, stop = {name for names in categories for name in names}, stop_words()
    common = sorted((-count, word) for word, count in shared.items() if word not in stop and word not in taken)
    words = {word for _, word in common[:_WORDS]}
    for names, row, title in zip(categories, attributes, titles, strict=True):
        found = [(CATEGORY, name) for name in names]
        for reader in readers:
            found += reader(row)
        yield found + [(WORD, word) for word in title if word in words]


def _parts(category: str | None) -> list[str]:
    parts = (clean(part, _CHARS).lower() for part in _SPLIT.split(category or ""))
    return [part for part in parts if part and not part.startswith("(")]


class _Attribute:
    """One attribute of the catalogue, as facets of a row's attributes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, row: dict[str, str]) -> list[tuple[str, str]]:
        text = row.get(self._name)
        return [] if text is None else list(self.facets(text))

    def facets(self, text: str) -> Iterator[tuple[str, str]]:
        """Values as they are."""
        if value := clean(text, _CHARS).lower():
            yield VALUE, value


class _Years(_Attribute):
    def facets(self, text: str) -> Iterator[tuple[str, str]]:
        if (year := _number(text)) is not None:
            yield DECADE, f"{int(year) // 10 * 10}s"


class _Amounts(_Attribute):
    def facets(self, text: str) -> Iterator[tuple[str, str]]:
        if (amount := _number(text)) is not None:
            yield from ((BELOW, f"{bound:.12g}") for bound in _ROUND if amount < bound)


def _reader(name: str, attributes: list[dict[str, str]]) -> _Attribute | None:
    """How an attribute is read; None: free text, which says nothing that items share."""
    texts = [row[name] for row in attributes if row.get(name) is not None]
    numbers = [number for number in map(_number, texts) if number is not None]
    if len(numbers) >= 0.8 * len(texts) and numbers:
        years = all(number == int(number) and 1800 <= number < 2200 for number in numbers)
        return _Years(name) if years else _Amounts(name)
    return _Attribute(name) if len(set(texts)) <= _VALUES else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
