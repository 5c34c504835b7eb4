"""What methods share that go by a factor model of everybody's events (rayrec.fism): events that it explains badly go.

An event's explanation is its leave-one-out score: the user's other items say how likely the item was.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from rayrec.contracts.ragged import Ragged
from rayrec.denoising.base import REASONS, Arrays, Denoiser, Histories, Verdict, required
from rayrec.denoising.limits import Cap
from rayrec.denoising.selection import strongest
from rayrec.fism import Fism
from rayrec.needs import Need
from rayrec.settings import read_settings

Floats = npt.NDArray[np.float64]


class ByFactors(Denoiser):
    """Needs a `fism` fit of the item model: `source`, `target` [items, d], `bias` [items], `quantiles` [101]."""

    settings_kind: ClassVar[type[Cap]]

    def __init__(self, model: Fism, quantiles: npt.NDArray[np.float32], settings: Cap) -> None:
        self.model, self.quantiles, self.settings = model, quantiles, settings
        self.known = model.known

    @classmethod
    @abstractmethod
    def need(cls, settings: Any) -> Need:
        """The fit of these checked settings."""

    @abstractmethod
    def assess(self, item: Ragged, explained: npt.NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        """Of each event, [total]: self-consistency, suspicion (> 0: may go, highest first), and its weight if it goes.

        `explained` [total]: leave-one-out scores; what is said of an event depends on its own user alone.
        """

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Cap:
        return read_settings(cls.settings_kind, settings, f"denoise.settings ({cls.name})")

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        cls.read(settings)

    @classmethod
    def needs(cls, settings: Mapping[str, Any]) -> tuple[Need, ...]:
        return (cls.need(cls.read(settings)),)

    @classmethod
    def load(cls, arrays: Arrays, settings: Mapping[str, Any]) -> Self:
        given = cls.read(settings)
        prefix = cls.need(given).name
        source, target, bias, quantiles = (
            required(arrays, f"{prefix}.{name}", cls.name) for name in ("source", "target", "bias", "quantiles")
        )
        return cls(Fism(source, target, bias), quantiles, given)

    def judge(self, histories: Histories) -> Verdict:
        judged = (histories.weight.values > 0) & self.known[histories.item.values]
        verdict = Verdict.all_kept(len(judged))
        item = histories.item.filter(judged)
        if not len(item.values):
            return verdict
        consistency, suspicion, weight = self.assess(item, self.model.explained(item))
        out = strongest(item, suspicion, np.ones(len(item.values), np.bool_), self.settings)
        verdict.influence[judged] = consistency
        verdict.keep[judged] = np.where(out, weight, 1)
        verdict.reason[judged] = np.where(out, REASONS.index("unexplained"), 0)
        return verdict


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
