"""What must not get worse unnoticed, whatever the decisive metric says: few rules of thumb, each with its number.

They never block: the contract, the quarantine's share and the sample ratio do that before anything is published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayrec.evaluation.comparison import ALL_USERS, COVERAGE
from rayrec.reporting.report_data import ReportData
from rayrec.reporting.request_tables import recognised_counts

_LEAST_SERVED = 0.95  # of the users who are eligible
_NEAR = 0.9  # of the share of rows in quarantine at which a day is not published
_LEAST_HEARD = 0.9  # of the requests name something that the LLM knows
_MOST_LOST = 0.10  # of the baseline's coverage, or of its share of tail items
_AS_MANY = 0.9  # of the other arm's users, for coverage: the more users, the more items they are shown
_WATCHED = {COVERAGE: "coverage of the catalogue", "tail@10": "share of tail items", "diversity@10": "diversity"}


@dataclass(frozen=True)
class Guardrail:
    name: str
    found: str
    asked: str
    kept: bool | None  # None: not known


def guardrails(data: ReportData) -> list[Guardrail]:
    """Those of the run, then those of each arm against the baseline once the day is judged."""
    return [_served(data), _quarantined(data), *_heard(data), _drifted(data), *_arms(data)]


def _served(data: ReportData) -> Guardrail:
    eligible = data.users_in - sum(data.users_ineligible.values())
    share = data.users_published / eligible if eligible else 0.0
    found = f"{share:.1%} of {eligible:,} eligible users"
    return Guardrail("users with a slate", found, f"at least {_LEAST_SERVED:.0%}", share >= _LEAST_SERVED)


def _quarantined(data: ReportData) -> Guardrail:
    share = sum(data.rows_quarantined.values()) / max(data.rows_read, 1)
    asked = f"well below the {data.max_quarantine_share:.0%} that block a day"
    return Guardrail("rows in quarantine", f"{share:.2%}", asked, share <= _NEAR * data.max_quarantine_share)


def _heard(data: ReportData) -> list[Guardrail]:
    texts, named = recognised_counts(data.requests)
    if not texts:
        return []
    asked = f"at least {_LEAST_HEARD:.0%}"
    return [Guardrail("requests that name something", f"{named:,} of {texts:,}", asked, named >= _LEAST_HEARD * texts)]


def _drifted(data: ReportData) -> Guardrail:
    shifted = [f"{row['quantity']} ({row['arm']})" for row in data.drift.to_pylist() if row["verdict"] == "shifted"]
    found = ", ".join(shifted) or ("nothing shifted" if data.previous_date else "no earlier day")
    if data.drift_unavailable:
        return Guardrail("drift against the day before", f"unknown: {data.drift_unavailable}", "no PSI over 0.25", None)
    return Guardrail("drift against the day before", found, "no PSI over 0.25", not shifted)


def _arms(data: ReportData) -> list[Guardrail]:
    values: dict[tuple[str, str], dict[str, Any]] = {
        (row["system"], row["metric"]): row
        for row in data.comparison.to_pylist()
        if row["against"] is None and row["segment"] == ALL_USERS
    }
    found = []
    for arm in data.arms:
        for metric, words in _WATCHED.items():
            mine, base = values.get((arm, metric)), values.get((data.baseline, metric))
            if arm == data.baseline or mine is None or base is None or base["value"] <= 0:
                continue
            asked = f"no more than {_MOST_LOST:.0%} below {data.baseline}"
            if metric == COVERAGE and min(mine["users"], base["users"]) < _AS_MANY * max(mine["users"], base["users"]):
                unknown = f"unknown: of {mine['users']:,} users, in {data.baseline} of {base['users']:,}"
                found.append(Guardrail(f"{words}, {arm}", unknown, asked, None))
                continue
            change = mine["value"] / base["value"] - 1
            found.append(Guardrail(f"{words}, {arm}", f"{change:+.1%}", asked, change >= -_MOST_LOST))
    return found
