"""Template data of the evaluation sections: metrics, differences and off-policy estimates."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from rayrec.evaluation import beyond_accuracy
from rayrec.evaluation.ab_decision import is_significant
from rayrec.evaluation.comparison import ALL_USERS, COVERAGE
from rayrec.evaluation.slate_evaluation import PRIMARY_METRIC, SPLIT_METRIC
from rayrec.reporting.run_views import Rows

_DIFFERENCE_METRICS = (SPLIT_METRIC, "conversion", "consumed_cuped", "consumed", PRIMARY_METRIC, "recall@10", "hr@10")


def comparison(table: pa.Table, baseline: str) -> dict[str, Any] | None:
    """Metrics by system in two tables (accuracy and beyond), differences, and differences by segment; None if empty."""
    rows = table.to_pylist()
    values = [row for row in rows if row["baseline"] is None and row["segment"] == ALL_USERS]
    if not values:
        return None
    metrics = list(dict.fromkeys(row["metric"] for row in values))
    primary = PRIMARY_METRIC if PRIMARY_METRIC in metrics else metrics[0]
    beyond = [metric for metric in (COVERAGE, *beyond_accuracy.METRICS) if metric in metrics]
    differences = [
        row for row in rows if row["baseline"] and row["segment"] == ALL_USERS and row["metric"] in _DIFFERENCE_METRICS
    ]
    # What one decides by first: arms minus the baseline arm, then arms minus the best retriever; retrievers are folded.
    arms = {row["system"] for row in differences if row["baseline"] == baseline} | {baseline}
    between_retrievers = [row for row in differences if row["system"] not in arms]
    differences = sorted(
        (row for row in differences if row["system"] in arms), key=lambda row: row["baseline"] != baseline
    )
    if not differences:
        differences, between_retrievers = between_retrievers, []
    segments = [row for row in rows if row["baseline"] == baseline and row["segment"] != ALL_USERS]
    systems = list(dict.fromkeys(row["system"] for row in values))
    return {
        "primary_metric": primary,
        "accuracy": _metrics(values, [metric for metric in metrics if metric not in beyond]),
        "beyond": _metrics(values, beyond),
        "span": (0.0, max(row["high"] for row in values if row["metric"] == primary)),
        "differences": [_difference(row, row["system"], 0, relative=False) for row in differences],
        "reach": _reach(differences),
        "retriever_differences": [_difference(row, row["system"], 0, relative=False) for row in between_retrievers],
        "retriever_reach": _reach(between_retrievers),
        "segments": [
            _difference(row, f"{row['segment']} ({row['system']})", systems.index(row["system"])) for row in segments
        ],
        "segment_reach": _reach(segments),
    }


def interleaving(table: pa.Table) -> Rows:
    rows: Rows = table.to_pylist()
    for row in rows:
        users = max(row["wins"] + row["losses"], 1)
        row["shares"] = [row["wins"] / users, row["losses"] / users]
    return rows


def off_policy(table: pa.Table) -> tuple[Rows, tuple[float, float]]:
    """Estimates with the colour of the target arm, and the scale of all intervals."""
    rows = table.to_pylist()
    targets = list(dict.fromkeys(row["target_arm"] for row in rows))
    for row in rows:
        row["colour"] = targets.index(row["target_arm"]) % 6 + 1
    known = [row for row in rows if row["value"] is not None]
    return rows, (min((0.0, *(r["low"] for r in known))), max((1e-9, *(r["high"] for r in known))))


def _metrics(values: Rows, metrics: list[str]) -> dict[str, Any]:
    cells = {(row["system"], row["metric"]): row for row in values}
    users: dict[str, int] = {}
    for row in values:
        users[row["system"]] = max(row["users"], users.get(row["system"], 0))
    return {"systems": list(users), "metrics": metrics, "cells": cells, "users": users}


def _difference(row: dict[str, Any], name: str, colour: int, relative: bool = True) -> dict[str, Any]:
    as_share = relative and row["relative"] is not None
    ends = ("relative", "relative_low", "relative_high") if as_share else ("value", "low", "high")
    shown = [f"{row[key]:+.1%}" if as_share else f"{row[key]:+.4f}" for key in ends]
    texts = dict(zip(("shown", "shown_low", "shown_high"), shown, strict=True))
    better = "better" if row["value"] > 0 else "worse"
    conclusion = better if is_significant(row) else "no clear difference"
    return {**row, **texts, "name": name, "conclusion": conclusion, "colour": colour % 6 + 1}


def _reach(rows: Rows) -> tuple[float, float]:
    """A scale symmetric about 0 that contains every interval."""
    furthest = max((max(abs(row["low"]), abs(row["high"])) for row in rows), default=1.0)
    return -furthest, furthest
