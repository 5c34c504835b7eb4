"""Guardrail metrics of an A/B decision: an arm may lose at most a margin of the baseline's value.

A non-inferiority test by interval (CONSORT; Piaggio et al. 2012): the loss is excluded where the whole interval lies
above -margin. The intervals are those of the comparison, simultaneous over its arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from rayrec.evaluation.comparison import ALL_USERS, COVERAGE

MARGIN = 0.10  # share of the baseline's value
METRICS = {
    COVERAGE: "coverage of the catalogue",
    "tail@10": "share of tail items",
    "diversity@10": "diversity",
    "consumed_cuped": "new items per user",  # of a split: more consumers who each consume less are no gain
}
_SIMILAR_USERS = 0.9  # share of the other arm's users: coverage grows with users, so arms of other size do not compare

Finding = Literal["held", "violated", "not shown", "unknown"]


@dataclass(frozen=True)
class ArmGuardrail:
    """The loss of one arm on one guardrail metric, as shares of the baseline's value.

    `held`: a loss above the margin is excluded; `violated`: the loss is estimated above the margin and is significant;
    `not shown`: neither; `unknown`: the metric does not compare these arms.
    """

    arm: str
    metric: str
    label: str
    finding: Finding
    relative: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def measured(self) -> str:
        """The change with its interval, as text."""
        if self.relative is None or self.low is None or self.high is None:
            return "unknown"
        return f"{self.relative:+.1%} ({self.low:+.1%} … {self.high:+.1%})"


def arm_guardrails(
    comparison: pa.Table, baseline: str, arms: Sequence[str], margin: float = MARGIN
) -> tuple[ArmGuardrail, ...]:
    """Guardrails of every arm against the baseline, from COMPARISON rows; metrics without values have none."""
    rows = [row for row in comparison.to_pylist() if row["segment"] == ALL_USERS and row["metric"] in METRICS]
    users = {(row["system"], row["metric"]): row["users"] for row in rows if row["baseline"] is None}
    found = []
    for arm in arms:
        for row in rows:
            if row["system"] == arm and row["baseline"] == baseline:
                metric, label = row["metric"], METRICS[row["metric"]]
                both = [users[system, metric] for system in (arm, baseline)]
                if row["relative"] is None or (metric == COVERAGE and min(both) < _SIMILAR_USERS * max(both)):
                    found.append(ArmGuardrail(arm, metric, label, "unknown"))
                else:
                    change = (row["relative"], row["relative_low"], row["relative_high"])
                    found.append(ArmGuardrail(arm, metric, label, _finding(*change, margin), *change))
    return tuple(found)


def _finding(relative: float, low: float, high: float, margin: float) -> Finding:
    if low >= -margin:
        return "held"
    return "violated" if relative < -margin and high < 0 else "not shown"
