"""Settings that methods share: how much of a user may go, which events are trusted, from where on one is suspect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayrec.config.method_settings import require


@dataclass(frozen=True)
class RemovalBudget:
    """How much of a user may go. Few events at once: the influence of many does not add up.

    REFERENCES section 2.
    """

    max_share: float = 0.2
    """Share of a user's judged events that may go, 0 to 1."""
    min_keep: int = 5
    """Judged events that stay, whatever the share."""
    min_events: int = 6
    """Users with fewer judged events are left alone."""
    weight_out: float = 0.0
    """The weight of what is taken out: 0, or up to below 1 to weigh it down instead."""

    def __post_init__(self) -> None:
        require(0 <= self.max_share <= 1, "max_share must be between 0 and 1")
        require(self.min_keep >= 0 and self.min_events >= 0, "min_keep and min_events must not be below 0")
        require(0 <= self.weight_out < 1, "weight_out must be at least 0 and below 1")

    def max_removals(self, counts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """How many of so many judged events may go; any shape."""
        most = np.minimum(np.floor(self.max_share * counts + 1e-9), np.maximum(counts - self.min_keep, 0))
        return np.where(counts < self.min_events, 0, most).astype(np.int64)


@dataclass(frozen=True)
class TrustedInteractions(RemovalBudget):
    """Which events of a user are trusted: harm is what an event does to these."""

    trusted_newest: int = 5
    """So many, the newest of the user's positives that pass the next two filters."""
    trusted_min_weight: float | None = None
    """The smallest weight in `data.events`; `null`: any."""
    trusted_min_value: float | None = None
    """The smallest value (a rating, say); `null`: any, and none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.trusted_newest >= 1, "trusted_newest must be at least 1")


@dataclass(frozen=True)
class RemovalThresholds(TrustedInteractions):
    """From where on an event is suspect: by its self-consistency, or by its harm towards trusted events."""

    hard_negatives: int = 10
    """Items that harm is measured against: the user's best-scored of the pool that are not in the history."""
    negative_pool: int = 256
    """The pool: so many of the most popular items."""
    inconsistent_share: float = 0.2
    """Inconsistent is what is within this lowest share of its user's self-consistencies ..."""
    inconsistent_ratio: float = 0.5
    """... and also below this multiple of their median."""
    harmful_share: float = 0.05
    """Harmful is what is within this highest share of harm, above 0, and below that median; 0: nothing is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hard_negatives >= 0, "hard_negatives must not be below 0")
        require(self.negative_pool >= 1, "negative_pool must be at least 1")
        for name in ("inconsistent_share", "harmful_share"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be between 0 and 1")
