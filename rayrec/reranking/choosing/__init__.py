"""Whom to tune on: a budget of users out of all, chosen by one of several ways (config: tuning.choose, tuning.budget).

Only users with two groups of events can teach anything; the budget is a share of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayrec.config import Tuning
from rayrec.errors import DataError
from rayrec.reranking.choosing.base import Method, Pool, Weights, best, groups, taken
from rayrec.reranking.choosing.diverse import by_diversity
from rayrec.reranking.choosing.influence import by_influence
from rayrec.reranking.choosing.similar import by_similarity
from rayrec.reranking.choosing.uniform import at_random
from rayrec.reranking.model import ItemLM
from rayrec.reranking.prompt import Layout
from rayrec.reranking.tuning_data import Int, Sequences

__all__ = ["METHODS", "Choice", "Pool", "choose", "newest_users"]

METHODS: Mapping[str, Method] = {
    "random": at_random,
    "similar": by_similarity,
    "diverse": by_diversity,
    "influence": by_influence,
}
_VALIDATION_USERS = 1000  # at most


@dataclass(frozen=True)
class Choice:
    """`weights` [users of the sequences]: 0 where a user is left out. `of`: the users who could have been chosen."""

    method: str
    budget: float
    weights: Weights
    of: int

    @property
    def users(self) -> int:
        return int(np.count_nonzero(self.weights))

    def of_events(self, events: Sequences) -> Sequences:
        """The chosen users, their events weighed."""
        rows = np.flatnonzero(self.weights)
        chosen = taken(events, rows)
        weight = chosen.weight.like(chosen.weight.values * self.weights[rows][chosen.weight.rows])
        return Sequences(chosen.item, chosen.ts, weight)

    def as_json(self) -> dict[str, Any]:
        return {"method": self.method, "budget": self.budget, "users": self.users, "of": self.of}


def choose(
    events: Sequences,
    fresh: Callable[[], ItemLM],
    layout: Layout,
    settings: Tuning,
    now: int,
    device: str = "cpu",
    validation: Int | None = None,
) -> Choice:
    """The users to tune on, as the settings say (`choose` is not all). See `Pool` for the arguments.

    `validation`: rows of `events` with three groups at least; None: the users who acted last. Raises DataError where
    nobody can be chosen, or where a way needs validation users and there are none.
    """
    teaching = np.flatnonzero(groups(events) > 1)
    if not len(teaching):
        raise DataError(
            "there is nobody to choose tuning data from: no user has two groups of events with known items",
            do="give more days (data.window_days) or lower tuning.min_item_events",
        )
    validation = newest_users(events) if validation is None else validation
    judges = np.searchsorted(teaching, validation)
    pool = Pool(taken(events, teaching), judges, fresh, layout, settings, now, device)
    count = max(1, round(settings.budget * len(pool)))
    weights = np.zeros(len(events), np.float32)
    weights[teaching] = METHODS[settings.choose](pool, count)
    return Choice(settings.choose, settings.budget, weights, len(pool))


def newest_users(events: Sequences) -> Int:
    """Rows, ascending, of the users with three groups of events who acted last: whom the next day is most like."""
    last = events.ts.values[events.ts.offsets[1:] - 1].astype(np.float64)
    enough = groups(events) > 2
    number = min(_VALIDATION_USERS, int(enough.sum()))
    return np.flatnonzero(best(np.where(enough, last, -np.inf), number))
