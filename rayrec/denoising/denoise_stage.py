"""HISTORY to DENOISED_HISTORY: one shard's histories with one variant's verdict on each event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.config.section import MethodSettings
from rayrec.data.schemas import DENOISED_HISTORY, HISTORY
from rayrec.denoising.denoiser import DENOISERS, Denoiser, Histories
from rayrec.numerics.ragged import Ragged


def histories_of(table: pa.Table, event_weights: Sequence[float]) -> Histories:
    """HISTORY (or DENOISED_HISTORY) rows as arrays; `event_weights` in the order of `data.events`."""
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
    """Reads HISTORY, writes DENOISED_HISTORY, same rows in the same order. Needs a CPU and the item model's arrays."""

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

    def __call__(self, table: pa.Table) -> pa.Table:
        histories = histories_of(table, self.event_weights)
        decision = self.denoiser.decide(histories)
        like = histories.item.like
        columns = [
            *(table[name].combine_chunks() for name in HISTORY.names),
            pa.array([self.variant] * len(table), pa.string()),
            like(decision.keep).to_arrow(pa.float32()),
            like(decision.influence).to_arrow(pa.float32()),
            like(decision.negative_influence).to_arrow(pa.float32()),
            like(decision.reason).to_arrow(pa.int8()),
        ]
        return pa.table(columns, schema=DENOISED_HISTORY)
