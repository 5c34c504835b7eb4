"""What methods share that go by a factor model of everybody's events (rayrec.numerics.fism_model): events that it explains badly go.

An event's explanation is its leave-one-out score: the user's other items say how likely the item was.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rayrec.data.required_fit import RequiredFit
from rayrec.denoising.denoiser import REASONS, Arrays, Denoiser, DenoisingDecision, Histories, required_array
from rayrec.denoising.event_selection import most_suspicious
from rayrec.denoising.removal_budget import RemovalBudget
from rayrec.numerics.fism_model import FismModel
from rayrec.numerics.ragged import Ragged

Floats = npt.NDArray[np.float64]


class FactorModelDenoiser(Denoiser):
    """Needs a `fism` fit of the item model: `source`, `target` [items, d], `bias` [items], `quantiles` [101]."""

    def __init__(self, model: FismModel, quantiles: npt.NDArray[np.float32], settings: RemovalBudget) -> None:
        self.model, self.quantiles, self.settings = model, quantiles, settings
        self.known = model.known

    @classmethod
    @abstractmethod
    def required_fit(cls, settings: Any) -> RequiredFit:
        """The fit of these checked settings."""

    @abstractmethod
    def assess(self, item: Ragged, leave_one_out_scores: npt.NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        """Of each event, [total]: self-consistency, suspicion (> 0: may go, highest first), and its weight if it goes.

        `explained` [total]: leave-one-out scores; what is said of an event depends on its own user alone.
        """

    @classmethod
    def required_fits(cls, settings: Any) -> tuple[RequiredFit, ...]:
        return (cls.required_fit(settings),)

    @classmethod
    def load(cls, arrays: Arrays, settings: Any) -> Self:
        prefix = cls.required_fit(settings).name
        source, target, bias, quantiles = (
            required_array(arrays, f"{prefix}.{name}", cls.name) for name in ("source", "target", "bias", "quantiles")
        )
        return cls(FismModel(source, target, bias), quantiles, settings)

    def decide(self, histories: Histories) -> DenoisingDecision:
        scored = (histories.weight.values > 0) & self.known[histories.item.values]
        decision = DenoisingDecision.all_retained(len(scored))
        item = histories.item.filter(scored)
        if not len(item.values):
            return decision
        consistency, suspicion, weight = self.assess(item, self.model.leave_one_out_scores(item))
        out = most_suspicious(item, suspicion, np.ones(len(item.values), np.bool_), self.settings)
        decision.influence[scored] = consistency
        decision.keep[scored] = np.where(out, weight, 1)
        decision.reason[scored] = np.where(out, REASONS.index("low_likelihood"), 0)
        return decision


def softmax_within(item: Ragged, values: Floats) -> Floats:
    """exp(values) over its sum within each row, [total]."""
    some = item.lengths > 0
    starts = item.offsets[:-1][some]
    lengths = item.lengths[some]
    shifted = np.exp(values - np.repeat(np.maximum.reduceat(values, starts), lengths))
    share: Floats = shifted / np.repeat(np.add.reduceat(shifted, starts), lengths)
    return share


def median_within(item: Ragged, values: Floats) -> Floats:
    """The lower median of each row, for each of its values: [total]."""
    ordered = values[np.lexsort((values, item.rows))]
    middle = item.offsets[:-1] + np.maximum(item.lengths - 1, 0) // 2
    result: Floats = ordered[middle[item.rows]]
    return result
