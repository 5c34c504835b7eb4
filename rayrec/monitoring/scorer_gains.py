"""How much each scorer of a blend helps on held-out users, as run statistics and as rows of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rayrec.blending.blender import ScorerGain
from rayrec.data.schemas import CONTENT
from rayrec.monitoring.run_statistics import count_statistics, counts_by_arm

BLEND = "blend"  # the statistic
_WITH_REQUEST = " (users with a request)"
_FIELDS = ("gain", "low", "high", "users", "entered", "l2_factor")


def gain_statistics(arms: str, gains: Sequence[ScorerGain]) -> pa.Table:
    """RUN_STATISTICS of the gains of one blend; `arms`: the arms that use it."""
    counts = {
        f"{gain.scorer}{_WITH_REQUEST if gain.request else ''}/{name}": float(getattr(gain, name) or 0)
        for gain in gains
        for name in _FIELDS
    }
    return count_statistics(BLEND, {arms: counts})


def scorer_gains(statistics: pa.Table) -> list[dict[str, Any]]:
    """One row per blend and scorer, the largest gain first: `arms`, `scorer` and the fields of ScorerGain."""
    rows: list[dict[str, Any]] = []
    for arms, counts in counts_by_arm(statistics, BLEND).items():
        names = dict.fromkeys(key.rpartition("/")[0] for key in counts)
        found = [
            {"arms": arms, "scorer": _display(name), **{each: counts[f"{name}/{each}"] for each in _FIELDS}}
            for name in names
        ]
        rows += sorted(found, key=lambda row: (-row["gain"], row["scorer"]))
    return rows


def _display(scorer: str) -> str:
    return f"content: {scorer.removeprefix(CONTENT)}" if scorer.startswith(CONTENT) else scorer
