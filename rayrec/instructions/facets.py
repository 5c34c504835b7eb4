"""The facets of items, and the check whether an item satisfies a request.

A request includes and excludes facets ("drama from the 1990s, no war"); an item satisfies it if its set of facets
contains all of the first and none of the second. `facet_scheme` defines the facets of a catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.instructions.facet_scheme import KINDS, FacetScheme
from rayrec.instructions.vocabulary_filter import negation_and_bound_words, stop_words
from rayrec.numerics.ragged import Ragged

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_ANY_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Facets:
    """F facets, and the facets of each item. `of_item`: int64 facet numbers, ascending, one row an item."""

    scheme: FacetScheme
    of_item: Ragged

    @classmethod
    def of(cls, catalogue: pa.Table, scheme: FacetScheme | None = None) -> Facets:
        """The facets of the items of ITEM, by the given scheme, or by one learned from them."""
        scheme = FacetScheme.of(catalogue) if scheme is None else scheme
        return cls(scheme, scheme.of_items(catalogue))

    @property
    def kind(self) -> tuple[str, ...]:
        return self.scheme.kind

    @property
    def name(self) -> tuple[str, ...]:
        return self.scheme.name

    def __len__(self) -> int:
        return len(self.name)

    def take(self, codes: Ints) -> Facets:
        """The facets of these items [n], in this order."""
        lengths = self.of_item.lengths[codes]
        start = np.repeat(self.of_item.offsets[codes] - (np.cumsum(lengths) - lengths), lengths)
        values = self.of_item.values[start + np.arange(lengths.sum())]
        return Facets(self.scheme, Ragged.from_lengths(values, lengths))

    def number(self, kind: str, name: str) -> int:
        """The number of a facet. Raises KeyError if it does not exist."""
        return self._numbers[kind, name]

    def has(self, item: Ints, facet: Ints) -> Bools:
        """Whether each item has the facet at the same position, bool [n]."""
        key = item * len(self) + facet
        found: Bools = self._keys[np.searchsorted(self._keys[:-1], key)] == key
        return found

    def satisfied(self, item: Ints, include: Ints, exclude: Ints) -> Bools:
        """Whether items [n] have every facet of `include` [n, a] and none of `exclude` [n, b], bool [n]; -1 is no
        facet."""
        good = np.ones(len(item), np.bool_)
        for wanted, facets in ((True, include), (False, exclude)):
            for column in facets.T:
                used = column >= 0
                good[used] &= self.has(item[used], column[used]) == wanted
        return good

    def items_of(self, include: Sequence[int], exclude: Sequence[int] = ()) -> Bools:
        """Whether each item satisfies one request, bool [items]."""
        items = np.arange(len(self.of_item))
        both = [np.tile(np.asarray(part, np.int64), (len(items), 1)) for part in (include, exclude)]
        return self.satisfied(items, *both)

    def sample_balanced(self, many: int, rng: np.random.Generator) -> Ints:
        """Sample items [many], balanced by facets: uniformly a kind, then a facet of the kind, then an item with it.

        So rare facets are as frequent as broad ones. Raises ValueError if no item has a facet.
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
        """Number of items with each facet, [F]."""
        return np.bincount(self.of_item.values, minlength=len(self)).astype(np.int64)

    @cached_property
    def items_by_facet(self) -> Ragged:
        """The items of each facet, int64 numbers, ascending, one row a facet."""
        order = np.argsort(self.of_item.values, kind="stable")
        return Ragged.from_lengths(self.of_item.rows[order].astype(np.int64), self.size)

    @cached_property
    def _keys(self) -> Ints:
        """(item, facet) as one number, ascending, then -1 as a sentinel for `searchsorted`."""
        return np.append(self.of_item.rows * len(self) + self.of_item.values, -1)

    @cached_property
    def _numbers(self) -> dict[tuple[str, str], int]:
        return {pair: number for number, pair in enumerate(zip(self.kind, self.name, strict=True))}


def facet_words(facets: Facets) -> frozenset[str]:
    """Words (runs of letters and digits) of facet names, and words that negate or set a bound."""
    return frozenset(word for name in facets.name for word in _ANY_WORD.findall(name)) | negation_and_bound_words()


def distractor_words(facets: Facets) -> tuple[str, ...]:
    """Stop words that are in no facet name, sorted."""
    return tuple(sorted(stop_words() - facet_words(facets)))
