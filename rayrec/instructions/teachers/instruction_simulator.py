"""The instruction simulator: rule-based requests and user profile texts from item facets.

specific    one or two facets of the target item, sometimes an excluded facet too: "drama from the 1990s"
vague       the item's broadest facet, hedged: "in the mood for comedy"
profile     facets that are more frequent in a history than in the catalogue: "likes crime, 1970s"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

import numpy as np
import yaml

from rayrec.instructions.facet_scheme import BELOW, CATEGORY, DECADE, VALUE, WORD
from rayrec.instructions.facets import Bools, Facets, Ints
from rayrec.numerics.ragged import Ragged

Split = Literal["train", "held_out"]
_WEIGHT = {CATEGORY: 3.0, DECADE: 2.0, BELOW: 1.0, VALUE: 2.0, WORD: 1.0}  # relative sampling weight of a kind
_TWO, _WITHOUT = 0.4, 0.15  # shares of specific requests with a second facet, and with an excluded one
_PROFILE_FACETS, _MIN_LIFT = 3, 1.2  # facets in a profile, and their smallest frequency relative to the catalogue


@dataclass(frozen=True)
class SimulatedRequests:
    """R requests, as facets (-1: none) and as text."""

    include: Ints  # [R, 2]
    exclude: Ints  # [R, 1]
    text: tuple[str, ...]

    def only(self, rows: Bools) -> SimulatedRequests:
        """The requests where `rows` [R] is true; the others become empty."""
        text = tuple(text if used else "" for text, used in zip(self.text, rows.tolist(), strict=True))
        include, exclude = (np.where(rows[:, None], facets, -1) for facets in (self.include, self.exclude))
        return SimulatedRequests(include, exclude, text)


@dataclass(frozen=True)
class InstructionSimulator:
    """Simulates instructions. `split`: of the phrases; the facet pairs `held_out_pairs` [n, 2] never occur together."""

    facets: Facets
    split: Split = "train"
    held_out_pairs: Ints | None = None

    def specific(self, item: Ints, rng: np.random.Generator) -> SimulatedRequests:
        """A request that each target item [R] satisfies; "" for an item without facets."""
        order = self._two_facets(item, rng)
        include = np.where((rng.random(len(item)) < _TWO)[:, None] | [True, False], order, -1)
        include[self._is_held_out(include), 1] = -1
        exclude = self._lacking(item, rng)
        exclude[(include[:, 0] < 0) | (rng.random(len(item)) >= _WITHOUT)] = -1
        return SimulatedRequests(include, exclude[:, None], self._specific_words(include, exclude, rng))

    def vague(self, item: Ints, rng: np.random.Generator) -> SimulatedRequests:
        """A hedged request for the broadest category (or else facet) of each item [R]; "" for an item without
        facets."""
        own = self.facets.of_item
        kinds = np.array([kind == CATEGORY for kind in self.facets.kind])
        first = np.full(len(self.facets.of_item), -1)
        broad = np.lexsort((self.facets.size[own.values], kinds[own.values], own.rows))  # broadest last
        first[own.rows[broad]] = own.values[broad]
        include = np.stack([first[item], np.full(len(item), -1)], axis=1)
        pick = rng.random(len(item))
        text = tuple(
            "" if facet < 0 else _phrase(self._phrases("vague"), share, name=self.facets.name[facet])
            for facet, share in zip(include[:, 0].tolist(), pick.tolist(), strict=True)
        )
        return SimulatedRequests(include, np.full((len(item), 1), -1), text)

    def profiles(self, history: Ragged, rng: np.random.Generator) -> tuple[str, ...]:
        """A profile text for each history (int64 item numbers, one row a user); "" if no facet stands out."""
        facets = self.facets.take(history.values).of_item
        row = history.rows[facets.rows]
        cell, count = np.unique(row * max(len(self.facets), 1) + facets.values, return_counts=True)
        user, facet = np.divmod(cell, max(len(self.facets), 1))
        usual = self.facets.size[facet] / max(len(self.facets.of_item), 1)
        lift = count / history.lengths[user] / usual
        frequent = (count >= 2) & (lift >= _MIN_LIFT)
        user, facet, gain = user[frequent], facet[frequent], (count * np.log(lift))[frequent]
        order = np.lexsort((facet, -gain, user))
        rank = np.arange(len(order)) - np.searchsorted(user[order], user[order])
        liked: list[list[str]] = [[] for _ in range(len(history))]
        for one in order[rank < _PROFILE_FACETS]:
            liked[user[one]].append(self.facets.name[facet[one]])
        pick = rng.random(len(history)).tolist()
        return tuple(
            _phrase(self._phrases("likes"), share, a=", ".join(names)) if names else ""
            for names, share in zip(liked, pick, strict=True)
        )

    def phrase(self, include: Sequence[int], exclude: Sequence[int] = (), *, number: int = 0) -> str:
        """A request for these facets as text; `number` selects the phrases."""
        share = (0.5 + number) * 0.61803398875 % 1
        return self._words(list(include), list(exclude), [share, share * 7 % 1, share * 13 % 1, share * 29 % 1])

    @property
    def phrase_templates(self) -> tuple[str, ...]:
        """Every phrase of the split, with its fields unfilled."""
        return tuple(phrase for splits in phrases().values() for phrase in splits[self.split])

    def _two_facets(self, item: Ints, rng: np.random.Generator) -> Ints:
        """Two facets of each item, [R, 2], sampled without replacement by the weights of their kinds; -1: none left."""
        own = self.facets.take(item).of_item
        weight = np.array([_WEIGHT[kind] for kind in self.facets.kind])
        key = rng.gumbel(size=len(own.values)) + np.log(weight[own.values])
        order = np.lexsort((-key, own.rows))
        rank = np.arange(len(order)) - own.offsets[own.rows[order]]
        out = np.full((len(item), 2), -1)
        for place in (0, 1):
            chosen = order[rank == place]
            out[own.rows[chosen], place] = own.values[chosen]
        return out

    def _lacking(self, item: Ints, rng: np.random.Generator) -> Ints:
        """A facet that each item lacks, [R], sampled by size; -1 if the sampled one is a facet of the item."""
        nameable = np.flatnonzero([kind in (CATEGORY, VALUE, WORD) for kind in self.facets.kind])
        if not len(nameable):
            return np.full(len(item), -1)
        size = self.facets.size[nameable].astype(np.float64)
        drawn = rng.choice(nameable, len(item), p=size / size.sum())
        return np.where(self.facets.has(item, drawn), -1, drawn)

    def _is_held_out(self, include: Ints) -> Bools:
        if self.held_out_pairs is None or not len(self.held_out_pairs):
            return np.zeros(len(include), np.bool_)
        span = len(self.facets)
        low, high = np.sort(include, axis=1).T
        pairs = np.sort(self.held_out_pairs, axis=1)
        found: Bools = (low >= 0) & np.isin(low * span + high, pairs[:, 0] * span + pairs[:, 1])
        return found

    def _specific_words(self, include: Ints, exclude: Ints, rng: np.random.Generator) -> tuple[str, ...]:
        pick = rng.random((len(include), 4)).tolist()
        rows = zip(include.tolist(), exclude.tolist(), pick, strict=True)
        return tuple(
            self._words([facet for facet in wanted if facet >= 0], [unwanted] if unwanted >= 0 else [], shares)
            for wanted, unwanted, shares in rows
        )

    def _words(self, include: list[int], exclude: list[int], shares: Sequence[float]) -> str:
        parts = [
            _phrase(self._phrases(self.facets.kind[facet]), share, name=self.facets.name[facet])
            for facet, share in zip(include, shares[:2], strict=False)
        ]
        parts += [_phrase(self._phrases("without"), shares[2], name=self.facets.name[facet]) for facet in exclude]
        text = parts[0] if parts else ""
        for part in parts[1:]:
            text = _phrase(self._phrases("join"), shares[3], a=text, b=part)
        return text

    def _phrases(self, kind: str) -> Sequence[str]:
        return phrases()[kind][self.split]


@lru_cache(maxsize=1)
def phrases() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """The content of phrases.yaml: kind -> split -> phrases."""
    text = resources.files(__package__).joinpath("phrases.yaml").read_text(encoding="utf8")
    content: dict[str, dict[str, list[str]]] = yaml.safe_load(text)
    return content


def _phrase(choices: Sequence[str], share: float, **fields: str) -> str:
    """The choice at `share` in [0, 1), with its fields filled in. Values are never parsed for fields."""
    phrase = choices[int(share * len(choices))]
    out, rest = "", phrase
    while "{" in rest:
        before, _, rest = rest.partition("{")
        field, _, rest = rest.partition("}")
        out += before + fields[field]
    return out + rest
