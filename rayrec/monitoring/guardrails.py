"""Guardrails of a run: limits on coverage of users, quarantine, requests and drift, shown in the report.

Guardrails never block a publication: the data contract, the quarantine share and the sample-ratio check do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date as Date
from typing import Protocol

import pyarrow as pa

from rayrec.monitoring.request_recognition import recognised_counts

_MIN_SERVED = 0.95  # share of the eligible users with a slate
_NEAR_LIMIT = 0.9  # share of the quarantine limit from which on the guardrail fails
_MIN_RECOGNISED = 0.9  # share of the requests with a term that the LLM recognises


@dataclass(frozen=True)
class Guardrail:
    name: str
    measured: str
    threshold: str
    passed: bool | None  # None: unknown


class RunFacts(Protocol):
    """What the guardrails need of a run; `ReportData` has it."""

    @property
    def users_in(self) -> int: ...
    @property
    def users_published(self) -> int: ...
    @property
    def users_ineligible(self) -> Mapping[str, int]: ...
    @property
    def rows_read(self) -> int: ...
    @property
    def rows_quarantined(self) -> Mapping[str, int]: ...
    @property
    def max_quarantine_share(self) -> float: ...
    @property
    def requests(self) -> pa.Table: ...
    @property
    def drift(self) -> pa.Table: ...
    @property
    def previous_date(self) -> Date | None: ...
    @property
    def drift_unavailable(self) -> str: ...


def run_guardrails(run: RunFacts) -> list[Guardrail]:
    """The guardrails of one run, without those that compare arms."""
    return [_users_served(run), _rows_quarantined(run), *_requests_recognised(run), _drift(run)]


def _users_served(run: RunFacts) -> Guardrail:
    eligible = run.users_in - sum(run.users_ineligible.values())
    share = run.users_published / eligible if eligible else 0.0
    measured = f"{share:.1%} of {eligible:,} eligible users"
    return Guardrail("users with a slate", measured, f"at least {_MIN_SERVED:.0%}", share >= _MIN_SERVED)


def _rows_quarantined(run: RunFacts) -> Guardrail:
    share, limit = sum(run.rows_quarantined.values()) / max(run.rows_read, 1), run.max_quarantine_share
    threshold = f"well below the {limit:.0%} that block the publication"
    return Guardrail("quarantined rows", f"{share:.2%}", threshold, share <= _NEAR_LIMIT * limit)


def _requests_recognised(run: RunFacts) -> list[Guardrail]:
    texts, recognised = recognised_counts(run.requests)
    if not texts:
        return []
    name, threshold = "requests with a recognised term", f"at least {_MIN_RECOGNISED:.0%}"
    return [Guardrail(name, f"{recognised:,} of {texts:,}", threshold, recognised >= _MIN_RECOGNISED * texts)]


def _drift(run: RunFacts) -> Guardrail:
    name, threshold = "drift from the previous date", "no PSI over 0.25"
    if run.drift_unavailable:
        return Guardrail(name, f"unknown: {run.drift_unavailable}", threshold, None)
    shifted = [f"{row['statistic']} ({row['arm']})" for row in run.drift.to_pylist() if row["status"] == "shifted"]
    measured = ", ".join(shifted) or ("nothing shifted" if run.previous_date else "no earlier date")
    return Guardrail(name, measured, threshold, not shifted)
