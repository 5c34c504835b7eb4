"""The interface of denoising methods, their registry, and the stage that applies one to a shard.

A new method is a new file with one class, registered by name; tests/denoising/test_denoiser_contract.py covers all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from rayrec.config.registry import Registry
from rayrec.config.section import MethodSettings
from rayrec.data.required_fit import RequiredFit
from rayrec.data.schemas import DENOISED_HISTORY, HISTORY
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
"""Why an event was removed: `inconsistent` with the user's other events, of `negative_influence` on the trusted events,
or both; `retracted`, `burst`, `repeat` and `short_dwell` are rules (heuristic_rules.py); of `low_likelihood` under a
model of all users' events (loss, propensity, nbpo, gradient); `likely_noise` by several features (ensemble)."""


@dataclass(frozen=True)
class Histories:
    """A batch of histories as arrays, oldest event first; all ragged members share their offsets."""

    item: Ragged  # int32 codes
    ts: Ragged  # int64 microseconds UTC
    weight: Ragged  # float32: weight of the event type in `data.events`; > 0: positive
    value: Ragged  # float32, NaN if missing
    dwell_ms: Ragged  # int32, -1 if missing

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class DenoisingDecision:
    """One value per event, aligned with `Histories.item.values`, [events]."""

    keep_weight: npt.NDArray[np.float32]  # in [0, 1]; 0 = removed
    influence: npt.NDArray[np.float32]  # self-consistency, NaN if not measured
    negative_influence: npt.NDArray[np.float32]  # > 0: removing the event helps; 0: no evidence against it
    reason: npt.NDArray[np.int8]  # index into REASONS

    @classmethod
    def all_retained(cls, events: int) -> DenoisingDecision:
        """No event removed, nothing measured."""
        influence = np.full(events, np.nan, np.float32)
        return cls(np.ones(events, np.float32), influence, np.zeros(events, np.float32), np.zeros(events, np.int8))


Arrays = Mapping[str, npt.NDArray[Any]]


class Denoiser(ABC):
    """A denoising method: loaded once per worker from the item model's arrays, then applied shard by shard."""

    name: ClassVar[str]
    settings_class: ClassVar[type[MethodSettings]]  # of `denoise.settings`
    requires_fit: ClassVar[bool] = False  # whether `fit` has arrays for `load`

    # `settings` below is an instance of `settings_class`.

    @classmethod
    def required_fits(cls, settings: Any) -> tuple[RequiredFit, ...]:
        """Retriever fits whose arrays `load` needs, in addition to `item.count`."""
        return ()

    @classmethod
    def members(cls, settings: Any) -> tuple[tuple[type[Denoiser], Any], ...]:
        """The methods that `load` may load, each with its settings: usually this one alone."""
        return ((cls, settings),)

    @classmethod
    def fit_key(cls, settings: Any) -> str:
        """Prefix of the arrays of `fit` among the arrays passed to `load`."""
        return f"{cls.name}-{digest(settings.model_dump(mode='json'))}"

    @classmethod
    def fit(
        cls, histories: Histories, items: int, refit: Callable[[Histories], Arrays], settings: Any
    ) -> dict[str, npt.NDArray[Any]]:
        """Learn arrays from the events of the fit, once per run, if `requires_fit`.

        `items`: size of the catalogue; `refit` fits `required_fits` on other histories and returns their arrays. The
        result must not contain item codes, because it is used with every catalogue.
        """
        raise NotImplementedError(f"{cls.name} has no fit")

    @classmethod
    @abstractmethod
    def load(cls, arrays: Arrays, settings: Any) -> Self:
        """Create from the item model's arrays (`ItemModel.denoiser_arrays`). Raises ConfigError if one is missing."""

    def to(self, device: torch.device) -> Self:
        """The same method computing on this device; itself if it computes on the CPU only."""
        return self

    @abstractmethod
    def decide(self, histories: Histories) -> DenoisingDecision:
        """Decide on each event. A user's decisions depend only on the history and the model, not on the batch."""


def required_array(arrays: Arrays, name: str, method: str) -> npt.NDArray[Any]:
    """The array of this name. Raises ConfigError if the item model was fitted without it."""
    if name not in arrays:
        raise ConfigError(
            f"the denoising method {method} needs {name!r}, which is not in the item model",
            where="denoise.method",
            hint=f"fit the item model again with {name.partition('.')[0]!r}, as jobs.fit does with this config",
        )
    return arrays[name]


DENOISERS: Registry[type[Denoiser]] = Registry("denoise.method", "denoising method")


def histories_of(table: pa.Table, event_weights: Sequence[float]) -> Histories:
    """Convert HISTORY (or DENOISED_HISTORY) rows to arrays; `event_weights` in the order of `data.events`."""
    item = Ragged.from_arrow(table["item"])
    event = Ragged.from_arrow(table["event"])
    weight = np.asarray(event_weights, np.float32)[event.values]
    return Histories(
        item=item,
        ts=Ragged.from_arrow(table["ts"]),
        weight=item.like(weight),
        value=Ragged.from_arrow(table["value"]),
        dwell_ms=Ragged.from_arrow(table["dwell_ms"]),
    )


@dataclass(frozen=True)
class DenoiseStage:
    """Convert HISTORY to DENOISED_HISTORY: one variant's decisions on a shard, same rows in the same order."""

    variant: str
    denoiser: Denoiser
    event_weights: tuple[float, ...]

    @classmethod
    def load(
        cls,
        variant: str,
        method: str,
        settings: MethodSettings,
        event_weights: Sequence[float],
        arrays: Mapping[str, npt.NDArray[Any]],
    ) -> Self:
        return cls(variant, DENOISERS.lookup(method).load(arrays, settings), tuple(event_weights))

    def to(self, device: torch.device) -> DenoiseStage:
        """The same stage computing on this device."""
        return replace(self, denoiser=self.denoiser.to(device))

    def __call__(self, table: pa.Table) -> pa.Table:
        histories = histories_of(table, self.event_weights)
        decision = self.denoiser.decide(histories)
        like = histories.item.like
        columns = [
            *(table[name].combine_chunks() for name in HISTORY.names),
            pa.array([self.variant] * len(table), pa.string()),
            like(decision.keep_weight).to_arrow(pa.float32()),
            like(decision.influence).to_arrow(pa.float32()),
            like(decision.negative_influence).to_arrow(pa.float32()),
            like(decision.reason).to_arrow(pa.int8()),
        ]
        return pa.table(columns, schema=DENOISED_HISTORY)
