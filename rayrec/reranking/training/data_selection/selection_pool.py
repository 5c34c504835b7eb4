"""Training-data selection: the users to tune on, a share `tuning.selection_budget` of all.

Only users with at least two groups of events give training targets; the budget is a share of these.

A new method is a new file with one pure function (pool, count) -> weights, registered in `SELECTION_METHODS`; it must
pass tests/reranking/training/test_data_selection.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rayrec.config import Tuning
from rayrec.config.registry import Registry
from rayrec.errors import DataError
from rayrec.numerics.hashing import derive_seed
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.item_token.prompt_layout import PromptLayout, group_ends
from rayrec.reranking.training.tuning_examples import Int, Sequences, TuningExamples, validation_examples

Weights = npt.NDArray[np.float32]
_MAX_VALIDATION_USERS = 1000


@dataclass(frozen=True)
class SelectionPool:
    """The users to select from, each with at least two groups of events.

    `validation`: rows of the users for whom the selection is made. Their newest group is the validation target, so no
    user's newest group is used otherwise. `initial_model`: returns the model before tuning, always the same.
    """

    events: Sequences  # [users], all before `now`
    validation: Int
    initial_model: Callable[[], ItemLM]
    layout: PromptLayout
    settings: Tuning
    now: int  # microseconds UTC
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.events)

    @cached_property
    def past(self) -> Sequences:
        """All events except the newest group of every user, [users]."""
        newest = self.events.ts.values[self.events.ts.offsets[1:] - 1]
        return filter_events(self.events, self.events.ts.values < newest[self.events.ts.rows])

    @cached_property
    def validation_targets(self) -> TuningExamples:
        """A query for each validation user at the time of the newest group, with the new items of that group as
        targets.

        Raises DataError if no validation user consumed a new item.
        """
        users = take_users(self.events, self.validation)
        newest = users.ts.values[users.ts.offsets[1:] - 1]
        since = users.ts.like(users.ts.values - newest[users.ts.rows])  # prompts depend only on time differences
        examples = validation_examples(Sequences(users.item, since, users.weight), self.layout, 0)
        if not len(examples.target.values):
            raise DataError(
                "there is no validation user to select tuning data for: no user has a new item after two others",
                hint="give more days (data.window_days) or set tuning.data_selection: random",
            )
        return examples

    def rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed("choosing", purpose, self.settings.seed))


SelectionMethod = Callable[[SelectionPool, int], Weights]
"""(pool, count) -> weights [users]: exactly `count` above 0, with mean 1; 0 for users not selected."""

SELECTION_METHODS: Registry[SelectionMethod] = Registry(
    "tuning.data_selection", "method of training-data selection", built_in=("all",)
)


def top_weights(scores: npt.NDArray[np.float64], count: int) -> Weights:
    """Weight 1 for the `count` greatest scores [n], ties to the earlier; 0 for the others."""
    weights = np.zeros(len(scores), np.float32)
    weights[np.argsort(-scores, kind="stable")[:count]] = 1
    return weights


def event_group_counts(events: Sequences) -> Int:
    """Number of event groups (equal timestamps) of each user, [users]."""
    ends = group_ends(events.ts.values, events.ts.lengths)
    return np.bincount(events.ts.rows[ends], minlength=len(events))


def take_users(events: Sequences, rows: Int) -> Sequences:
    """These users, in this order."""
    return Sequences(*(member.take(rows) for member in (events.item, events.ts, events.weight)))


def filter_events(events: Sequences, mask: npt.NDArray[np.bool_]) -> Sequences:
    """The events where mask [events] is true; users without events remain."""
    return Sequences(*(member.filter(mask) for member in (events.item, events.ts, events.weight)))


@dataclass(frozen=True)
class DataSelection:
    """The result of a selection. `weights` [users of the sequences]: 0 if not selected; `of`: number of eligible
    users."""

    method: str
    budget: float
    weights: Weights
    of: int

    @property
    def users(self) -> int:
        return int(np.count_nonzero(self.weights))

    def select_events(self, events: Sequences) -> Sequences:
        """The selected users, with weighted events."""
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
    """Select the users to tune on, by a `tuning.data_selection` other than "all". See `SelectionPool` for the
    arguments.

    `validation`: rows of `events` with at least three groups; None: the users who acted last. Raises DataError if no
    user is eligible, or if the method needs validation users and there are none.
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
    """Rows, ascending, of the users with three groups of events who acted last, as a proxy for the next day's users."""
    last = events.ts.values[events.ts.offsets[1:] - 1].astype(np.float64)
    enough = event_group_counts(events) > 2
    number = min(_MAX_VALIDATION_USERS, int(enough.sum()))
    return np.flatnonzero(top_weights(np.where(enough, last, -np.inf), number))
