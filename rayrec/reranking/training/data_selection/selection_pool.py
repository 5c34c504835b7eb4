"""What every way of choosing gets and gives: a pool of users in, one weight a user out.

A new way is a new file with one pure function (Pool, count) -> weights, entered in `METHODS`, plus its test; all pass
tests/tuning/test_choosing.py.
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
from rayrec.reranking.training.tuning_data import Int, Sequences, TuningExamples, validation

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SelectionPool:
    """The users among whom is chosen, each with at least two groups of events.

    `validation`: rows of the users whom the choice is to serve. What they took last stands for what is not known yet;
    so nobody's newest group is looked at otherwise. `fresh` makes the model as tuning starts it, always the same.
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
        """What users are known by, [users]: all events but the newest group, of validation users and others alike."""
        newest = self.events.ts.values[self.events.ts.offsets[1:] - 1]
        return filter_events(self.events, self.events.ts.values < newest[self.events.ts.rows])

    @cached_property
    def validation_targets(self) -> TuningExamples:
        """Validation users' histories asked at the moment of their newest group: which of its items are new to them.

        Raises DataError where nobody has taken anything new.
        """
        judges = take_users(self.events, self.validation)
        newest = judges.ts.values[judges.ts.offsets[1:] - 1]
        since = judges.ts.like(judges.ts.values - newest[judges.ts.rows])  # prompts hold differences of times only
        examples = validation(Sequences(judges.item, since, judges.weight), self.layout, 0)
        if not len(examples.target.values):
            raise DataError(
                "there is no validation user to choose tuning data for: nobody took a new item after two others",
                hint="give more days (data.window_days) or set tuning.data_selection: random",
            )
        return examples

    def rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed("choosing", purpose, self.settings.seed))


SelectionMethod = Callable[[SelectionPool, int], Weights]
"""(pool, how many) -> weights [users]: exactly so many above 0, with mean 1; the others are left out."""


def best(scores: npt.NDArray[np.float64], count: int) -> Weights:
    """Weight 1 for the so many greatest of scores [n], the earlier of equals; 0 for the others."""
    weights = np.zeros(len(scores), np.float32)
    weights[np.argsort(-scores, kind="stable")[:count]] = 1
    return weights


def groups(events: Sequences) -> Int:
    """[users] groups of events: those at one time are one."""
    ends = group_ends(events.ts.values, events.ts.lengths)
    return np.bincount(events.ts.rows[ends], minlength=len(events))


def take_users(events: Sequences, rows: Int) -> Sequences:
    """These users, in this order."""
    return Sequences(*(member.take(rows) for member in (events.item, events.ts, events.weight)))


def filter_events(events: Sequences, mask: npt.NDArray[np.bool_]) -> Sequences:
    """The events where mask [events] is true; users stay, perhaps without any."""
    return Sequences(*(member.filter(mask) for member in (events.item, events.ts, events.weight)))


SELECTION_METHODS: Registry[SelectionMethod] = Registry(
    "tuning.data_selection", "way of selecting training data", built_in=("all",)
)
