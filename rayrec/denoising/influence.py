"""Closed-form leave-one-interaction-out in the user's ridge block (REFERENCES section 2, first block).

With item factors V frozen, A = lambda I + alpha0 V'V + sum_k v_k v_k', p = A^-1 sum_k v_k, a_i = A^-1 v_i,
h_i = v_i'a_i and y_i = v_i'p, the user refitted without event i is p - a_i (1 - y_i) / (1 - h_i), exactly
(Sherman-Morrison). Two things follow for each event:

- self-consistency y_i^(-i) = (y_i - h_i) / (1 - h_i): how well the user's other events predict it, ranked within the
  user. It finds noise.
- harm_i: the mean of delta s_ij = -v_j'a_i (1 - y_i) / (1 - h_i) over trusted targets j, less its mean over hard
  negatives. Above 0, taking the event out moves the trusted events up. It finds what hurts the ranking.

Only positive events whose item has factors are judged; the others stay. Evidence against an item (weights below 0) is
not used here. Nothing at or after the scored date is known: trusted events are the user's own newest positives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayrec.contracts.ragged import Ragged
from rayrec.denoising.base import Denoiser, Histories, Verdict, register
from rayrec.denoising.selection import Limits, take_out
from rayrec.errors import ConfigError
from rayrec.ridge import Batch, Blocks, Whitened, gram_of, one_thread, padded_batches, row_times, solve_blocks
from rayrec.rowwise import dense_dense
from rayrec.settings import read_settings, require

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class InfluenceSettings:
    """`lam` and `alpha0` shape the ridge block; trusted_* say which events are; the rest bounds what may go."""

    lam: float = 10.0
    alpha0: float = 0.1
    trusted_newest: int = 5  # of the user's positives that pass the two filters below
    trusted_min_weight: float | None = None  # the event's weight in data.events
    trusted_min_value: float | None = None  # a rating, say
    hard_negatives: int = 10  # the user's best-scored items among the pool that are not in the history
    negative_pool: int = 256  # the most popular items
    max_share: float = 0.2
    min_keep: int = 5
    min_events: int = 6
    inconsistent_share: float = 0.2
    inconsistent_ratio: float = 0.5
    harmful_share: float = 0.05
    weight_out: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        require(self.lam > 0, "lam must be above 0")
        require(self.alpha0 >= 0, "alpha0 must not be below 0")
        require(self.trusted_newest >= 1, "trusted_newest must be at least 1")
        require(self.hard_negatives >= 0, "hard_negatives must not be below 0")
        require(self.negative_pool >= 1, "negative_pool must be at least 1")
        require(self.dtype in _DTYPES, f"dtype must be one of {', '.join(_DTYPES)}")
        self.limits()

    def limits(self) -> Limits:
        return Limits(
            max_share=self.max_share,
            min_keep=self.min_keep,
            min_events=self.min_events,
            inconsistent_share=self.inconsistent_share,
            inconsistent_ratio=self.inconsistent_ratio,
            harmful_share=self.harmful_share,
            weight_out=self.weight_out,
        )


@register
class Influence(Denoiser):
    """Needs `ials.factors` [items, d] and `item.count` [items] of the item model."""

    name = "influence"

    def __init__(self, factors: npt.NDArray[Any], count: npt.NDArray[Any], settings: InfluenceSettings) -> None:
        self.settings = settings
        self._limits = settings.limits()
        self.dtype = _DTYPES[settings.dtype]
        self.whitened = Whitened.of(factors, gram_of(factors), settings.lam, settings.alpha0, self.dtype)
        self.known: npt.NDArray[np.bool_] = np.any(factors != 0, axis=1)
        popular = np.lexsort((np.arange(len(count)), -count.astype(np.float64)))
        self.pool = popular[self.known[popular]][: settings.negative_pool]
        self._pool_slot = np.full(len(count), -1, np.int64)
        self._pool_slot[self.pool] = np.arange(len(self.pool))
        self._pool_factors = self.whitened.items[torch.from_numpy(self.pool)]
        self._pool_columns = self._pool_factors.T.contiguous()

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        read_settings(InfluenceSettings, settings, "denoise.settings (influence)")

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        for name in ("ials.factors", "item.count"):
            if name not in arrays:
                raise ConfigError(
                    f"denoising by influence needs {name!r}, which the item model does not hold",
                    do="fit the item model again with `ials`",
                )
        given = read_settings(InfluenceSettings, settings, "denoise.settings (influence)")
        return cls(arrays["ials.factors"], arrays["item.count"], given)

    def judge(self, histories: Histories) -> Verdict:
        judged = (histories.weight.values > 0) & self.known[histories.item.values]
        verdict = Verdict.all_kept(len(judged))
        item = histories.item.filter(judged)
        if not len(item.values):
            return verdict
        trusted = self._trusted(histories, judged)
        consistency, harm = np.empty(len(item.values), np.float64), np.zeros(len(item.values), np.float64)
        keep, reason = np.ones(len(item.values), np.float32), np.zeros(len(item.values), np.int8)
        for batch, y, harmful in self._measured(item, trusted):
            kept, why = take_out(y, harmful, batch.mask, self._limits)
            at = batch.take[batch.mask]
            consistency[at], harm[at] = y[batch.mask], harmful[batch.mask]
            keep[at], reason[at] = kept[batch.mask], why[batch.mask]
        verdict.influence[judged], verdict.harm[judged] = consistency, harm
        verdict.keep[judged], verdict.reason[judged] = keep, reason
        return verdict

    def measure(self, item: Ragged, trusted: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Self-consistency and harm of each event, [total], in the settings' dtype: the maths without the selection.

        `item`: int32 codes of positive events, all with factors; `trusted` [total].
        """
        dtype = np.dtype(self.settings.dtype)
        consistency, harm = np.zeros(len(item.values), dtype), np.zeros(len(item.values), dtype)
        for batch, y, harmful in self._measured(item, trusted):
            at = batch.take[batch.mask]
            consistency[at], harm[at] = y[batch.mask], harmful[batch.mask]
        return consistency, harm

    def _measured(
        self, item: Ragged, trusted: npt.NDArray[np.bool_]
    ) -> Iterator[tuple[Batch, npt.NDArray[Any], npt.NDArray[Any]]]:
        for batch in padded_batches(item.offsets, self.whitened.items.shape[1]):
            with one_thread(), torch.inference_mode():
                consistency, harm = self._measure(batch, item, trusted)
            yield batch, consistency, harm

    def _trusted(self, histories: Histories, judged: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        eligible = np.ones(int(judged.sum()), np.bool_)
        if self.settings.trusted_min_weight is not None:
            eligible &= histories.weight.values[judged] >= self.settings.trusted_min_weight
        if self.settings.trusted_min_value is not None:
            eligible &= histories.value.values[judged] >= self.settings.trusted_min_value  # NaN is not trusted
        rows = histories.item.rows[judged]
        ends = np.searchsorted(rows, rows, side="right")
        through = np.concatenate([[0], np.cumsum(eligible)])
        newer = through[ends] - through[1:]  # eligible events of the same user after this one
        trusted: npt.NDArray[np.bool_] = eligible & (newer < self.settings.trusted_newest)
        return trusted

    def _measure(
        self, batch: Batch, item: Ragged, trusted: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        codes = item.values[batch.take]
        mask = torch.from_numpy(batch.mask).to(self.dtype)
        w = self.whitened.items[torch.from_numpy(codes).long()] * mask.unsqueeze(2)
        blocks = solve_blocks(w, mask)
        leverage = blocks.one_minus_y / blocks.one_minus_h
        trust = torch.from_numpy(trusted[batch.take] & batch.mask).to(self.dtype)
        harm = leverage * (self._toward_negatives(blocks, codes, batch) - _toward_trusted(blocks, trust))
        harm *= (trust.sum(1, keepdim=True) - trust > 0) * mask
        return (1 - leverage).numpy(), harm.numpy()

    def _toward_negatives(self, blocks: Blocks, codes: npt.NDArray[np.int32], batch: Batch) -> Tensor:
        """The mean of v_j'a_i over the user's hard negatives j: [b, L]."""
        count = min(self.settings.hard_negatives, len(self.pool))
        if not count:
            return torch.zeros_like(blocks.one_minus_y)
        scores = dense_dense(blocks.direction, self._pool_columns)
        slot = np.where(batch.mask, self._pool_slot[codes], -1)
        row, column = np.nonzero(slot >= 0)
        scores[torch.from_numpy(row), torch.from_numpy(slot[row, column])] = -torch.inf
        best, where = torch.topk(scores, count, dim=1)
        usable = torch.isfinite(best).to(self.dtype)
        share = usable / usable.sum(1, keepdim=True).clamp_min(1)
        # The chosen items' weighted mean as a sum over each row on its own.
        mean = torch.nn.functional.embedding_bag(where, self._pool_factors, mode="sum", per_sample_weights=share)
        return blocks.toward(mean)


def _toward_trusted(blocks: Blocks, trust: Tensor) -> Tensor:
    """The mean of v_j'a_i over the trusted events j other than i: [b, L]; 0 where there is none."""
    total = blocks.toward(row_times(trust, blocks.w))
    own = trust * (1 - blocks.one_minus_h)
    return (total - own) / (trust.sum(1, keepdim=True) - trust).clamp_min(1)
