"""The interface of training-data selection: a pool of users in, one weight a user out.

A new method is a new file with one pure function (pool, count) -> weights, registered in `SELECTION_METHODS`, and its
test; all pass tests/reranking/training/test_data_selection.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True)
class SelectionPool:
    """The users to select from, each with at least two groups of events.

    `validation`: rows of the users whom the selection is to serve. What they consumed last stands for the future, so
    the newest group of a user is used for nothing else. `initial_model`: the model before tuning, always the same.
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
        """All events but the newest group of every user, [users]."""
        newest = self.events.ts.values[self.events.ts.offsets[1:] - 1]
        return filter_events(self.events, self.events.ts.values < newest[self.events.ts.rows])

    @cached_property
    def validation_targets(self) -> TuningExamples:
        """A query for each validation user at the moment of the newest group; its targets: the new items of that group.

        Raises DataError where no validation user consumed a new item.
        """
        users = take_users(self.events, self.validation)
        newest = users.ts.values[users.ts.offsets[1:] - 1]
        since = users.ts.like(users.ts.values - newest[users.ts.rows])  # prompts hold differences of times only
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
"""(pool, count) -> weights [users]: exactly `count` above 0, with mean 1; the other users are left out."""

SELECTION_METHODS: Registry[SelectionMethod] = Registry(
    "tuning.data_selection", "method of training-data selection", built_in=("all",)
)


def top_weights(scores: npt.NDArray[np.float64], count: int) -> Weights:
    """Weight 1 for the `count` greatest of scores [n], the earlier of equals; 0 for the others."""
    weights = np.zeros(len(scores), np.float32)
    weights[np.argsort(-scores, kind="stable")[:count]] = 1
    return weights


def event_group_counts(events: Sequences) -> Int:
    """[users] number of event groups: events at one time are one group."""
    ends = group_ends(events.ts.values, events.ts.lengths)
    return np.bincount(events.ts.rows[ends], minlength=len(events))


def take_users(events: Sequences, rows: Int) -> Sequences:
    """These users, in this order."""
    return Sequences(*(member.take(rows) for member in (events.item, events.ts, events.weight)))


def filter_events(events: Sequences, mask: npt.NDArray[np.bool_]) -> Sequences:
    """The events where mask [events] is true; users remain, perhaps without events."""
    return Sequences(*(member.filter(mask) for member in (events.item, events.ts, events.weight)))
