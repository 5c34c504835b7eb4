"""Drift of a run against the last published day: the population stability index of what the report counts.

PSI = Σ (p − q) · ln(p / q) over bins (symmetrised Kullback–Leibler; Siddiqi 2006, ch. 8). The custom of the field, no
law: under 0.1 stable, to 0.25 shifting, beyond that look before you publish.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayrec.monitoring.run_statistics import counts_by_arm

DRIFT = pa.schema(
    [
        pa.field("quantity", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("psi", pa.float64(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
    ]
)
MONITORED = ("top score", "score", "category", "source", "history length")
_SHIFTING, _SHIFTED = 0.1, 0.25
_ORDERED_BINS = 10  # of scores and lengths: tenths of the earlier day
_FLOOR = 1e-4  # share of an empty bin, so that the logarithm stays finite


def drift(earlier: pa.Table, today: pa.Table) -> pa.Table:
    """DRIFT rows from two SUMMARY tables, for every (quantity, arm) that both days have."""
    rows = []
    for quantity in MONITORED:
        before, after = (counts_by_arm(summary, quantity) for summary in (earlier, today))
        for arm in sorted(set(before) & set(after)):
            index = psi(before[arm], after[arm], ordered=quantity in ("top score", "score", "history length"))
            rows.append({"quantity": quantity, "arm": arm, "psi": index, "verdict": _verdict(index)})
    return pa.Table.from_pylist(rows, DRIFT)


def psi(earlier: dict[str, float], today: dict[str, float], *, ordered: bool) -> float:
    """The index between two counts by key; `ordered`: keys are numbers, gathered into tenths of the earlier day."""
    keys = sorted(earlier.keys() | today.keys(), key=(lambda key: float(key)) if ordered else None)
    before, after = (np.array([counts.get(key, 0.0) for key in keys]) for counts in (earlier, today))
    if ordered:
        reached = np.cumsum(before) - before  # share of the earlier day below each key
        tenth = np.minimum(reached * _ORDERED_BINS // max(before.sum(), 1e-12), _ORDERED_BINS - 1).astype(int)
        before, after = np.bincount(tenth, before), np.bincount(tenth, after)
    p, q = (np.maximum(counts / max(counts.sum(), 1e-12), _FLOOR) for counts in (before, after))
    return float(((q - p) * np.log(q / p)).sum())


def _verdict(index: float) -> str:
    if index < _SHIFTING:
        return "stable"
    return "shifting" if index < _SHIFTED else "shifted"
