"""What every denoising method is: a verdict on each event of a history, from tables alone.

A new method is a new file with one class, registered by name, plus its test; all pass
tests/denoising/test_denoiser_contract.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from rayrec.config.registry import Registry
from rayrec.config.section import MethodSettings
from rayrec.data.required_fit import RequiredFit
from rayrec.errors import ConfigError
from rayrec.numerics.hashing import digest
from rayrec.numerics.ragged import Ragged

REASONS = (
    "retained",
    "inconsistent",
    "negative_influence",
    "inconsistent_and_negative_influence",
    "retracted",
    "burst",
    "repeat",
    "short_dwell",
    "low_likelihood",
    "likely_noise",
)
"""Why an event was taken out: `inconsistent` with the user's other events, `harmful` to the trusted events, or both;
`undone` by a later return, in a `burst` of events, `repeated` too often, or only `skimmed` (see rules.py);
`unexplained` by a model of everybody's events (loss, propensity, nbpo, gradient), or `doubtful` by several signs
(ensemble)."""


@dataclass(frozen=True)
class Histories:
    """A batch of histories as arrays; all ragged members share their offsets, oldest event first."""

    item: Ragged  # int32 codes
    ts: Ragged  # int64 microseconds UTC
    weight: Ragged  # float32: the event's weight from `data.events`; > 0 positive
    value: Ragged  # float32, NaN where there is none
    dwell_ms: Ragged  # int32, -1 where there is none

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class DenoisingDecision:
    """Per event, aligned with `Histories.item.values` [total]."""

    keep: npt.NDArray[np.float32]  # weight in [0, 1]; 0 = taken out
    influence: npt.NDArray[np.float32]  # self-consistency y_i^(-i), NaN where not measured
    negative_influence: npt.NDArray[np.float32]  # > 0: removal helps; 0 where nothing speaks against the event
    reason: npt.NDArray[np.int8]  # index into REASONS

    @classmethod
    def all_retained(cls, events: int) -> DenoisingDecision:
        """Where nothing is judged."""
        unjudged = np.full(events, np.nan, np.float32)
        return cls(np.ones(events, np.float32), unjudged, np.zeros(events, np.float32), np.zeros(events, np.int8))


Arrays = Mapping[str, npt.NDArray[Any]]


class Denoiser(ABC):
    """Loaded once in an actor with the item model's arrays, then called with one shard after another."""

    name: ClassVar[str]
    settings_class: ClassVar[type[MethodSettings]]  # of `denoise.settings`
    requires_fit: ClassVar[bool] = False  # whether `learn` has something to give to `load`

    # `settings` below is an instance of `settings_class`.

    @classmethod
    def required_fits(cls, settings: Any) -> tuple[RequiredFit, ...]:
        """The fits whose arrays `load` looks for, beside `item.count`."""
        return ()

    @classmethod
    def fit_key(cls, settings: Any) -> str:
        """What the names of learned arrays begin with in `load`'s arrays."""
        return f"{cls.name}-{digest(settings.model_dump(mode='json'))}"

    @classmethod
    def fit(
        cls, histories: Histories, items: int, refit: Callable[[Histories], Arrays], settings: Any
    ) -> dict[str, npt.NDArray[Any]]:
        """What the method learns once a night from the fit's own events, where `learns` says so.

        `items`: the size of the catalogue; `refit` gives the arrays of `needs` as fitted on other histories. No item
        codes may be in the result: it serves every catalogue.
        """
        raise NotImplementedError(f"{cls.name} learns nothing")

    @classmethod
    @abstractmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Any) -> Self:
        """`arrays`: the item model (see rayrec.retrieval.item_model)."""

    @abstractmethod
    def decide(self, histories: Histories) -> DenoisingDecision:
        """Pure: depends on each user's own history and the model, never on who else is in the batch."""


def required_array(arrays: Arrays, name: str, method: str) -> npt.NDArray[Any]:
    """The array of that name. Raises ConfigError if the item model was fitted without it."""
    if name not in arrays:
        raise ConfigError(
            f"denoising by {method} needs {name!r}, which the item model does not hold",
            where="denoise.method",
            hint=f"fit the item model again with {name.partition('.')[0]!r}, as jobs.fit does with this config",
        )
    return arrays[name]


DENOISERS: Registry[type[Denoiser]] = Registry("denoise.method", "denoising method")
