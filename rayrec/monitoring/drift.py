"""Drift of a run from the previous published date: the population stability index (PSI) of its run statistics.

PSI = Σ (p − q) · ln(p / q) over bins (symmetrised Kullback–Leibler; Siddiqi 2006, ch. 8). By convention, values under
0.1 are stable, values up to 0.25 are shifting, and larger values need a check of the slates.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayrec.monitoring.run_statistics import counts_by_arm

DRIFT = pa.schema(
    [
        pa.field("statistic", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("psi", pa.float64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # stable, shifting or shifted
    ]
)
SCORES = ("top score", "score")
MONITORED = (*SCORES, "category", "source", "history length")
_ORDERED = (*SCORES, "history length")  # keys are numbers
_SHIFTING, _SHIFTED = 0.1, 0.25
_ORDERED_BINS = 10  # deciles of the previous distribution
_FLOOR = 1e-4  # share of an empty bin, so that the logarithm stays finite


def drift(earlier: pa.Table, today: pa.Table) -> pa.Table:
    """Compute DRIFT rows from two RUN_STATISTICS tables, for every (statistic, arm) that both have."""
    rows = []
    for statistic in MONITORED:
        before, after = (counts_by_arm(statistics, statistic) for statistics in (earlier, today))
        for arm in sorted(set(before) & set(after)):
            index = psi(before[arm], after[arm], ordered=statistic in _ORDERED)
            rows.append({"statistic": statistic, "arm": arm, "psi": index, "status": _status(index)})
    return pa.Table.from_pylist(rows, DRIFT)


def psi(earlier: dict[str, float], today: dict[str, float], *, ordered: bool) -> float:
    """PSI of two counts by key; `ordered`: keys are numbers, binned by deciles of the previous distribution."""
    keys = sorted(earlier.keys() | today.keys(), key=(lambda key: float(key)) if ordered else None)
    before, after = (np.array([counts.get(key, 0.0) for key in keys]) for counts in (earlier, today))
    if ordered:
        reached = np.cumsum(before) - before  # previous count below each key
        tenth = np.minimum(reached * _ORDERED_BINS // max(before.sum(), 1e-12), _ORDERED_BINS - 1).astype(int)
        before, after = np.bincount(tenth, before), np.bincount(tenth, after)
    p, q = (np.maximum(counts / max(counts.sum(), 1e-12), _FLOOR) for counts in (before, after))
    return float(((q - p) * np.log(q / p)).sum())


def _status(index: float) -> str:
    if index < _SHIFTING:
        return "stable"
    return "shifting" if index < _SHIFTED else "shifted"
