"""Whom to tune on: a budget of users out of all, chosen by one of several ways (config: tuning.data_selection, tuning.selection_budget).

Only users with two groups of events can teach anything; the budget is a share of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayrec.config import Tuning
from rayrec.errors import DataError
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.training.data_selection import (
    diversity_selection,
    influence_selection,
    similarity_selection,
    uniform_selection,
)
from rayrec.reranking.training.data_selection.selection_pool import (
    SELECTION_METHODS,
    SelectionPool,
    Weights,
    best,
    groups,
    take_users,
)
from rayrec.reranking.training.tuning_data import Int, Sequences

__all__ = [
    "SELECTION_METHODS",
    "DataSelection",
    "SelectionPool",
    "diversity_selection",
    "influence_selection",
    "latest_users",
    "select_users",
    "similarity_selection",
    "uniform_selection",
]

_VALIDATION_USERS = 1000  # at most


@dataclass(frozen=True)
class DataSelection:
    """`weights` [users of the sequences]: 0 where a user is left out. `of`: the users who could have been chosen."""

    method: str
    budget: float
    weights: Weights
    of: int

    @property
    def users(self) -> int:
        return int(np.count_nonzero(self.weights))

    def select_events(self, events: Sequences) -> Sequences:
        """The chosen users, their events weighed."""
        rows = np.flatnonzero(self.weights)
        chosen = take_users(events, rows)
        weight = chosen.weight.like(chosen.weight.values * self.weights[rows][chosen.weight.rows])
        return Sequences(chosen.item, chosen.ts, weight)

    def as_json(self) -> dict[str, Any]:
        return {"method": self.method, "budget": self.budget, "users": self.users, "of": self.of}


def select_users(
    events: Sequences,
    fresh: Callable[[], ItemLM],
    layout: PromptLayout,
    settings: Tuning,
    now: int,
    device: str = "cpu",
    validation: Int | None = None,
) -> DataSelection:
    """The users to tune on, as the settings say (`choose` is not all). See `Pool` for the arguments.

    `validation`: rows of `events` with three groups at least; None: the users who acted last. Raises DataError where
    nobody can be chosen, or where a way needs validation users and there are none.
    """
    teaching = np.flatnonzero(groups(events) > 1)
    if not len(teaching):
        raise DataError(
            "there is nobody to choose tuning data from: no user has two groups of events with known items",
            hint="give more days (data.window_days) or lower tuning.min_item_events",
        )
    validation = latest_users(events) if validation is None else validation
    judges = np.searchsorted(teaching, validation)
    pool = SelectionPool(take_users(events, teaching), judges, fresh, layout, settings, now, device)
    count = max(1, round(settings.selection_budget * len(pool)))
    weights = np.zeros(len(events), np.float32)
    weights[teaching] = SELECTION_METHODS[settings.data_selection](pool, count)
    return DataSelection(settings.data_selection, settings.selection_budget, weights, len(pool))


def latest_users(events: Sequences) -> Int:
    """Rows, ascending, of the users with three groups of events who acted last: whom the next day is most like."""
    last = events.ts.values[events.ts.offsets[1:] - 1].astype(np.float64)
    enough = groups(events) > 2
    number = min(_VALIDATION_USERS, int(enough.sum()))
    return np.flatnonzero(best(np.where(enough, last, -np.inf), number))
