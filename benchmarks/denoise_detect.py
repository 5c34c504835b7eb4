"""Noise detection metrics of a denoising decision: AUC and precision within users, removed shares, time and memory."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from rayrec.denoising import DENOISERS, DenoisingDecision, Histories
from rayrec.numerics.ragged import Ragged

TAIL = 0.2  # share of all events that the items of the tail hold together

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TimedDecision:
    """A decision and its cost: seconds to load the method and to decide, and peak bytes beyond the start."""

    decision: DenoisingDecision
    load_seconds: float
    decide_seconds: float
    peak_bytes: int


def timed(
    method: str, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], histories: Histories
) -> TimedDecision:
    """Load a method and decide. Raises ConfigError where the method needs other arrays or settings."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not be had for nothing
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at what is resident now
    before, start = _memory("VmRSS"), time.perf_counter()
    denoiser = DENOISERS[method].load(arrays, DENOISERS[method].settings_class(**settings))
    loaded = time.perf_counter()
    decision = denoiser.decide(histories)
    return TimedDecision(decision, loaded - start, time.perf_counter() - loaded, _memory("VmHWM") - before)


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def suspicion(decision: DenoisingDecision) -> Floats:
    """[events] how suspicious a method finds each event: low self-consistency, or else negative influence.

    Events without a measurement are the least suspicious.
    """
    measured = np.isfinite(decision.influence)
    if not measured.any():
        return decision.negative_influence.astype(np.float64)
    return np.where(measured, -decision.influence.astype(np.float64), -np.inf)


def rank_within(values: Floats, rows: Int) -> Floats:
    """[events] in (0, 1): the mean rank of each value among its user's, over their number. `rows` ascends."""
    order = np.lexsort((values, rows))
    by_value, by_row = values[order], rows[order]
    new = np.append(True, (by_row[1:] != by_row[:-1]) | (by_value[1:] != by_value[:-1]))[: len(order)]
    tie = np.cumsum(new) - 1
    size = np.bincount(rows)
    start = np.cumsum(size) - size
    within = np.arange(len(order)) - start[by_row]
    mean = np.bincount(tie, within) / np.maximum(np.bincount(tie), 1)
    result = np.empty(len(values))
    result[order] = (mean[tie] + 0.5) / size[by_row]
    return result


def auc(score: Floats, noise: Bools) -> float:
    """P(a noise event scores above another one), ties one half; NaN where there is no noise or nothing else."""
    bad, good = int(noise.sum()), int((~noise).sum())
    if not bad or not good:
        return float("nan")
    return float((rankdata(score)[noise].sum() - bad * (bad + 1) / 2) / (bad * good))


def precision_at_share(score: Floats, noise: Bools) -> float:
    """The share of noise among as many of the highest scores as there are noise events; ties in the order given."""
    bad = int(noise.sum())
    highest = np.argsort(-score, kind="stable")[:bad]
    return float(noise[highest].mean()) if bad else float("nan")


def found(score: Floats, noise: Bools, rows: Int) -> dict[str, float]:
    """AUC and precision of scores that are compared within users."""
    within = rank_within(score, rows)
    shuffled = np.random.default_rng(0).permutation(len(within))  # ties must not fall by age
    return {"auc": auc(within, noise), "precision": precision_at_share(within[shuffled], noise[shuffled])}


def removed(keep: npt.NDArray[np.float32], noise: Bools, item: npt.NDArray[np.int32], items: int) -> dict[str, float]:
    """Of these events: the share that was removed, and the shares of noise and of tail items in what was removed."""
    gone = keep == 0
    tail = tail_items(np.bincount(item, minlength=items))
    some = bool(gone.any())
    return {
        "removed": float((1 - keep).mean()),
        "removed_noise": float(noise[gone].mean()) if some else float("nan"),
        "removed_tail": float(tail[item[gone]].mean()) if some else float("nan"),
    }


def tail_items(counts: Int) -> Bools:
    """The least popular items, [items], that together hold at most TAIL of the events."""
    order = np.argsort(counts, kind="stable")
    tail = np.zeros(len(counts), np.bool_)
    tail[order[np.cumsum(counts[order]) <= TAIL * counts.sum()]] = True
    return tail


def lowest_first(number: Int, score: Floats, item: Ragged) -> npt.NDArray[np.float32]:
    """Keep weights [events] after `number` [users] events of each user with the lowest scores are removed."""
    order = np.lexsort((score, item.rows))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - item.offsets[item.rows[order]]
    return np.where(place < number[item.rows], 0, 1).astype(np.float32)
