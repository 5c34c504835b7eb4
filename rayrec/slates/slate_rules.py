"""Slate rules: blocked items, attribute ranges, a cap per category and pinned items (`slate.rules`).

- `blocked` items and those outside a range of `ranges` are no candidates. A range reads the item's attribute as a
  number; text that is not a number counts as missing.
- `max_per_category: n` caps the pool: only the user's best n candidates of each category remain, so every slate meets
  the cap under any policy. Items without a category are not capped.
- `pinned` items are at their rank in every slate, with propensity 1; the policy fills the other ranks. A pin is skipped
  only if the item is unavailable or not in the catalogue, not if the user has it already. In a shorter slate a pin
  moves up to the end. Ranges and caps do not apply to pins, and caps do not count them.

The rules apply before the policy draws, so its propensities remain exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rayrec import config
from rayrec.numerics.top_k import best
from rayrec.numerics.types import Bools, Float64s, Int64s
from rayrec.slates.scored_candidates import CatalogueItems, ScoredCandidates

CAP, PINNED = "max_per_category", "pinned"


@dataclass(frozen=True)
class Pin:
    code: int
    rank: int  # from 0


@dataclass(frozen=True)
class Rules:
    """The rules of one arm. `passes`: the mask [items] of admitted items by rule name."""

    passes: Mapping[str, Bools] = field(default_factory=dict)
    per_category: int | None = None
    pins: tuple[Pin, ...] = ()  # sorted by rank

    @classmethod
    def of(cls, rules: config.Rules, items: CatalogueItems, attributes: pa.ChunkedArray) -> Self:
        """`attributes`: the catalogue's column, map<string, string> [items]."""
        passes: dict[str, Bools] = {}
        if rules.blocked:
            blocked = items.codes(rules.blocked)
            passes["blocked"] = ~np.isin(np.arange(len(items.ids)), blocked)
        for name, allowed in rules.ranges.items():
            passes[f"ranges.{name}"] = _within(_numbers(attributes, name), allowed)
        codes = items.codes(tuple(pin.item_id for pin in rules.pinned))
        pins = [Pin(int(code), pin.rank - 1) for code, pin in zip(codes, rules.pinned, strict=True) if code >= 0]
        usable = sorted((pin for pin in pins if items.available[pin.code]), key=lambda pin: pin.rank)
        return cls(passes, rules.max_per_category, tuple(usable))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the configured rules."""
        cap = (CAP,) if self.per_category else ()
        return (*self.passes, *cap, *((PINNED,) if self.pins else ()))

    @property
    def admitted_items(self) -> Bools:
        """Mask of the items that `blocked` and `ranges` admit, [items] or, without such a rule, one True."""
        admitted = np.ones(1, np.bool_)
        for passing in self.passes.values():
            admitted = admitted & passing
        return admitted

    def without(self, name: str) -> Rules:
        passes = {key: items for key, items in self.passes.items() if key != name}
        cap = None if name == CAP else self.per_category
        return replace(self, passes=passes, per_category=cap, pins=() if name == PINNED else self.pins)

    def eligible(self, scored: ScoredCandidates) -> Bools:
        """Mask of the candidates [candidates] that the rules admit."""
        items = np.ones(len(scored.items.ids), np.bool_) & self.admitted_items
        items[[pin.code for pin in self.pins]] = False
        eligible: Bools = items[scored.candidate.values]
        if self.per_category:
            eligible[eligible] = _best_of_each(scored.filter(eligible), self.per_category)
        return eligible

    def pin_ranks(self, drawn: Int64s) -> Int64s:
        """Ranks of the pins from 0, [users, pins], in slates with `drawn` [users] other items."""
        wanted = np.array([pin.rank for pin in self.pins], np.int64)
        return np.minimum(wanted, drawn[:, None] + np.arange(len(wanted)))


def unresolved_ids(rules: config.Rules, items: CatalogueItems) -> dict[str, int]:
    """Number of the rules' ids that are unknown or unavailable, by problem; zeros are omitted."""
    blocked, pinned = items.codes(rules.blocked), items.codes(tuple(pin.item_id for pin in rules.pinned))
    counts = {
        "blocked, unknown item": int((blocked < 0).sum()),
        "pinned, unknown item": int((pinned < 0).sum()),
        "pinned, unavailable item": int((~items.available[pinned[pinned >= 0]]).sum()),
    }
    return {what: count for what, count in counts.items() if count}


def unreadable_numbers(attributes: pa.ChunkedArray, name: str) -> tuple[int, int, str]:
    """Number of items whose attribute is text but no number, of those that have the attribute, and the first such text.

    `attributes`: as `Rules.of`.
    """
    texts = pc.map_lookup(attributes, pa.scalar(name, pa.string()), "first")
    given = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(texts), ""), False)
    examples = texts.filter(pc.and_(given, pa.array(np.isnan(_numbers(attributes, name)))))
    return len(examples), pc.sum(given).as_py() or 0, examples[0].as_py() if len(examples) else ""


def _best_of_each(scored: ScoredCandidates, most: int) -> Bools:
    """Mask of the `most` best candidates per user and category, and all without a category."""
    places = best(scored.scores, int(scored.scores.lengths.max(initial=0))).values
    category = scored.items.category[scored.candidate.values[places]].astype(np.int64)
    group = scored.scores.rows[places] << 32 | (category & 0xFFFFFFFF)
    order = np.argsort(group, kind="stable")  # keeps best first within a group
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    eligible = np.empty(len(places), np.bool_)
    eligible[places[order]] = (place < most) | (category[order] < 0)
    return eligible


def _numbers(attributes: pa.ChunkedArray, name: str) -> Float64s:
    """An attribute of every item as a number, [items], NaN if it is not one."""
    texts = pc.map_lookup(attributes, pa.scalar(name, pa.string()), "first").to_pandas()
    values: Float64s = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def _within(values: Float64s, allowed: config.Range) -> Bools:
    low = -math.inf if allowed.min is None else allowed.min
    high = math.inf if allowed.max is None else allowed.max
    inside: npt.NDArray[Any] = (values >= low) & (values <= high)
    return np.where(np.isnan(values), allowed.missing == "keep", inside)
