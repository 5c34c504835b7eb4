"""What every slate policy is: an order of scored candidates, and the probability with which it was chosen.

A new policy is a new file with one class, registered by name, plus its test.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.contracts.ragged import Ragged
from rayrec.errors import ConfigError
from rayrec.ordering import best


@dataclass(frozen=True)
class Ordered:
    """Slates as positions into the candidates' flat values: ragged int64, best first; propensity aligned."""

    places: Ragged
    propensity: npt.NDArray[np.float32]  # P(this item at this rank | the ranks above)


class SlatePolicy(ABC):
    """Chooses slates from scored candidates. Randomness, if any, comes from (run, user, arm) through `seed_of`."""

    name: ClassVar[str]

    @abstractmethod
    def order(self, scores: Ragged, user_ids: pa.Array, size: int) -> Ordered:
        """At most `size` candidates of each user; each row depends on that user alone."""


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


@register
class Greedy(SlatePolicy):
    """The best first, ties by the candidates' order; no chance involved."""

    name = "greedy"

    def order(self, scores: Ragged, user_ids: pa.Array, size: int) -> Ordered:
        places = best(scores, size)
        return Ordered(places, np.ones(len(places.values), np.float32))
