"""What every slate policy is: an order of scored candidates, and the probability with which it was chosen.

A new policy is a new file with one class, registered by name, plus its test.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.contracts.ragged import Ragged
from rayrec.errors import ConfigError
from rayrec.hashing import hash_strings, mixed
from rayrec.ordering import best
from rayrec.settings import NoSettings, read_settings


@dataclass(frozen=True)
class Ordered:
    """Slates as positions into the candidates' flat values: ragged int64, best first; propensity aligned."""

    places: Ragged
    propensity: npt.NDArray[np.float32]  # P(this item at this rank | the ranks above)


class SlatePolicy(ABC):
    """Chooses slates from scored candidates. Chance, if any, comes from (run, arm, user) alone: see `chance`."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """From `slate.settings`. Raises ConfigError on unknown or impossible ones."""

    @abstractmethod
    def order(self, scores: Ragged, user_ids: pa.Array, size: int, seed: int) -> Ordered:
        """At most `size` candidates of each user; each row depends on that user, its scores and the seed alone."""


POLICIES: dict[str, type[SlatePolicy]] = {}


def register(policy: type[SlatePolicy]) -> type[SlatePolicy]:
    POLICIES[policy.name] = policy
    return policy


def policy_kind(name: str) -> type[SlatePolicy]:
    """The policy of that name. Raises ConfigError naming the known ones."""
    if name not in POLICIES:
        known = ", ".join(sorted(POLICIES))
        raise ConfigError(f"there is no slate policy {name!r}", where="slate.policy", do=f"use one of {known}")
    return POLICIES[name]


def chance(seed: int, user_ids: pa.Array, lengths: npt.NDArray[np.int64], draws: int = 1) -> npt.NDArray[np.float64]:
    """Uniform numbers in (0, 1), [draws, sum(lengths)]: `lengths[u]` for each user, from (seed, user, place, draw).

    splitmix64 of the user's stable hash, as a counter: no state, so nothing depends on who shares the batch.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    start = mixed(hash_strings(user_ids) ^ np.uint64(seed))[rows]
    counter = place.astype(np.uint64)[None, :] * np.uint64(draws) + np.arange(draws, dtype=np.uint64)[:, None]
    bits = mixed(start + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    uniform: npt.NDArray[np.float64] = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return uniform


@register
class Greedy(SlatePolicy):
    """The best first, ties by the candidates' order; no chance involved."""

    name = "greedy"

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        read_settings(NoSettings, settings, "slate.settings (greedy)")
        return cls()

    def order(self, scores: Ragged, user_ids: pa.Array, size: int, seed: int) -> Ordered:
        places = best(scores, size)
        return Ordered(places, np.ones(len(places.values), np.float32))
