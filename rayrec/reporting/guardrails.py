"""Guardrails of the report: limits on a run, and secondary metrics that must not fall far below the baseline arm.

They never block a publication; the data contract, the quarantine share and the sample-ratio check do.
"""

from __future__ import annotations

from dataclasses import dataclass

from rayrec.evaluation.non_inferiority import MARGIN, ArmGuardrail, arm_guardrails
from rayrec.monitoring.request_recognition import recognised_counts
from rayrec.reporting.report_data import ReportData

_MIN_SERVED = 0.95  # share of the eligible users with a slate
_NEAR_LIMIT = 0.9  # share of the quarantine limit at which the guardrail fails
_MIN_RECOGNISED = 0.9  # share of the requests with a term that the LLM recognises


@dataclass(frozen=True)
class Guardrail:
    name: str
    measured: str
    threshold: str
    passed: bool | None  # None: unknown


def guardrails(run: ReportData) -> list[Guardrail]:
    """All guardrails; those of the arms only after an evaluation."""
    return [_users_served(run), _rows_quarantined(run), *_requests_recognised(run), _drift(run), *_arms(run)]


def _users_served(run: ReportData) -> Guardrail:
    eligible = run.users_in - sum(run.users_ineligible.values())
    share = run.users_published / eligible if eligible else 0.0
    measured = f"{share:.1%} of {eligible:,} eligible users"
    return Guardrail("users with a slate", measured, f"at least {_MIN_SERVED:.0%}", share >= _MIN_SERVED)


def _rows_quarantined(run: ReportData) -> Guardrail:
    share, limit = sum(run.rows_quarantined.values()) / max(run.rows_read, 1), run.max_quarantine_share
    threshold = f"well below the {limit:.0%} that block the publication"
    return Guardrail("quarantined rows", f"{share:.2%}", threshold, share <= _NEAR_LIMIT * limit)


def _requests_recognised(run: ReportData) -> list[Guardrail]:
    texts, recognised = recognised_counts(run.requests)
    if not texts:
        return []
    name, threshold = "requests with a recognised term", f"at least {_MIN_RECOGNISED:.0%}"
    return [Guardrail(name, f"{recognised:,} of {texts:,}", threshold, recognised >= _MIN_RECOGNISED * texts)]


def _drift(run: ReportData) -> Guardrail:
    name, threshold = "drift from the previous date", "no PSI over 0.25"
    if run.drift_unavailable:
        return Guardrail(name, f"unknown: {run.drift_unavailable}", threshold, None)
    shifted = [f"{row['statistic']} ({row['arm']})" for row in run.drift.to_pylist() if row["status"] == "shifted"]
    measured = ", ".join(shifted) or ("nothing shifted" if run.previous_date else "no earlier date")
    return Guardrail(name, measured, threshold, not shifted)


def _arms(run: ReportData) -> list[Guardrail]:
    """Guardrail metrics of each arm against the baseline: those of the decision."""
    found = arm_guardrails(run.comparison, run.baseline, [arm for arm in run.arms if arm != run.baseline])
    threshold = f"no more than {MARGIN:.0%} below {run.baseline}"
    passed = {"held": True, "violated": False}
    return [Guardrail(f"{g.label}, {g.arm}", _measured(g), threshold, passed.get(g.finding)) for g in found]


def _measured(guardrail: ArmGuardrail) -> str:
    return guardrail.measured + (", too few users to tell" if guardrail.finding == "not shown" else "")
