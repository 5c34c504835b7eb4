"""Settings that methods share: how much of a user may go, which events are trusted, from where on one is suspect."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rayrec.config.section import MethodSettings


class RemovalBudget(MethodSettings):
    """How much of a user may go. Few events at once: the influence of many does not add up.

    REFERENCES section 2.
    """

    max_removed_share: float = Field(0.2, ge=0, le=1)
    """Share of a user's judged events that may go, 0 to 1."""
    min_retained: int = Field(5, ge=0)
    """Judged events that stay, whatever the share."""
    min_events: int = Field(6, ge=0)
    """Users with fewer judged events are left alone."""
    removed_weight: float = Field(0.0, ge=0, lt=1)
    """The weight of what is taken out: 0, or up to below 1 to weigh it down instead."""

    def max_removals(self, counts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """How many of so many judged events may go; any shape."""
        most = np.minimum(np.floor(self.max_removed_share * counts + 1e-9), np.maximum(counts - self.min_retained, 0))
        return np.where(counts < self.min_events, 0, most).astype(np.int64)


class TrustedInteractions(RemovalBudget):
    """Which events of a user are trusted: harm is what an event does to these."""

    trusted_newest: int = Field(5, ge=1)
    """So many, the newest of the user's positives that pass the next two filters."""
    trusted_min_weight: float | None = None
    """The smallest weight in `data.events`; `null`: any."""
    trusted_min_value: float | None = None
    """The smallest value (a rating, say); `null`: any, and none."""


class RemovalThresholds(TrustedInteractions):
    """From where on an event is suspect: by its self-consistency, or by its harm towards trusted events."""

    hard_negatives: int = Field(10, ge=0)
    """Items that harm is measured against: the user's best-scored of the pool that are not in the history."""
    negative_pool: int = Field(256, ge=1)
    """The pool: so many of the most popular items."""
    inconsistent_share: float = Field(0.2, ge=0, le=1)
    """Inconsistent is what is within this lowest share of its user's self-consistencies ..."""
    inconsistent_ratio: float = 0.5
    """... and also below this multiple of their median."""
    negative_influence_share: float = Field(0.05, ge=0, le=1)
    """Harmful is what is within this highest share of harm, above 0, and below that median; 0: nothing is."""
