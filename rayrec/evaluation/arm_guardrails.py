"""Guardrails of an experiment: secondary metrics that must not fall much below the baseline arm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from rayrec.evaluation.comparison import ALL_USERS, COVERAGE
from rayrec.monitoring.guardrails import Guardrail

_MAX_LOSS = 0.10  # share of the baseline's value
_SIMILAR_USERS = 0.9  # share of the other arm's users; coverage grows with users, so it compares arms of similar size
_LABELS = {COVERAGE: "coverage of the catalogue", "tail@10": "share of tail items", "diversity@10": "diversity"}


def arm_guardrails(comparison: pa.Table, arms: Iterable[str], baseline: str) -> list[Guardrail]:
    """Guardrails of each arm against the baseline, from COMPARISON rows; none before the evaluation."""
    values: dict[tuple[str, str], dict[str, Any]] = {
        (row["system"], row["metric"]): row
        for row in comparison.to_pylist()
        if row["baseline"] is None and row["segment"] == ALL_USERS
    }
    found = []
    for arm in arms:
        for metric, label in _LABELS.items():
            own, base = values.get((arm, metric)), values.get((baseline, metric))
            if arm == baseline or own is None or base is None or base["value"] <= 0:
                continue
            threshold = f"no more than {_MAX_LOSS:.0%} below {baseline}"
            users = (own["users"], base["users"])
            if metric == COVERAGE and min(users) < _SIMILAR_USERS * max(users):
                measured, passed = f"unknown: {users[0]:,} users, {users[1]:,} in {baseline}", None
            else:
                change = own["value"] / base["value"] - 1
                measured, passed = f"{change:+.1%}", change >= -_MAX_LOSS
            found.append(Guardrail(f"{label}, {arm}", measured, threshold, passed))
    return found
