"""Training-data selection: on which users to tune, a share `tuning.selection_budget` of all.

Only users with two groups of events have anything to learn from; the budget is a share of these.
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
from rayrec.reranking.training.data_selection.selection_pool import (
    SELECTION_METHODS,
    SelectionPool,
    Weights,
    event_group_counts,
    take_users,
    top_weights,
)
from rayrec.reranking.training.tuning_examples import Int, Sequences

_MAX_VALIDATION_USERS = 1000


@dataclass(frozen=True)
class DataSelection:
    """`weights` [users of the sequences]: 0 where a user is left out. `of`: the users who could have been selected."""

    method: str
    budget: float
    weights: Weights
    of: int

    @property
    def users(self) -> int:
        return int(np.count_nonzero(self.weights))

    def select_events(self, events: Sequences) -> Sequences:
        """The selected users, with their events weighted."""
        rows = np.flatnonzero(self.weights)
        selected = take_users(events, rows)
        weight = selected.weight.like(selected.weight.values * self.weights[rows][selected.weight.rows])
        return Sequences(selected.item, selected.ts, weight)

    def as_json(self) -> dict[str, Any]:
        return {"method": self.method, "budget": self.budget, "users": self.users, "of": self.of}


def select_users(
    events: Sequences,
    initial_model: Callable[[], ItemLM],
    layout: PromptLayout,
    settings: Tuning,
    now: int,
    device: str = "cpu",
    validation: Int | None = None,
) -> DataSelection:
    """The users to tune on, by `tuning.data_selection` other than "all". See `SelectionPool` for the arguments.

    `validation`: rows of `events` with three groups at least; None: the users who acted last. Raises DataError where no
    user can be selected, or where the method needs validation users and there are none.
    """
    eligible = np.flatnonzero(event_group_counts(events) > 1)
    if not len(eligible):
        raise DataError(
            "there are no users to select tuning data from: no user has two groups of events with known items",
            hint="give more days (data.window_days) or lower tuning.min_item_events",
        )
    validation = latest_users(events) if validation is None else validation
    place = np.searchsorted(eligible, validation)
    pool = SelectionPool(take_users(events, eligible), place, initial_model, layout, settings, now, device)
    count = max(1, round(settings.selection_budget * len(pool)))
    weights = np.zeros(len(events), np.float32)
    weights[eligible] = SELECTION_METHODS[settings.data_selection](pool, count)
    return DataSelection(settings.data_selection, settings.selection_budget, weights, len(pool))


def latest_users(events: Sequences) -> Int:
    """Rows, ascending, of the users with three groups of events who acted last: the next day is most like theirs."""
    last = events.ts.values[events.ts.offsets[1:] - 1].astype(np.float64)
    enough = event_group_counts(events) > 2
    number = min(_MAX_VALIDATION_USERS, int(enough.sum()))
    return np.flatnonzero(top_weights(np.where(enough, last, -np.inf), number))
