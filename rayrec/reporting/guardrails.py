"""Guardrails of the report: bounds on a run, and secondary metrics that must not fall far below the baseline arm.

Those of the config (`guardrails`) were checked before the publication: see rayrec.monitoring.run_guardrails. The others
are measured for the report and never block.
"""

from __future__ import annotations

from dataclasses import dataclass

from rayrec.evaluation.non_inferiority import MARGIN, ArmGuardrail, arm_guardrails
from rayrec.monitoring.request_recognition import recognised_counts
from rayrec.reporting.report_data import ReportData

_MIN_RECOGNISED = 0.9  # share of the requests with a term that the LLM recognises


@dataclass(frozen=True)
class Guardrail:
    name: str
    measured: str
    threshold: str
    passed: bool | None  # None: unknown
    action: str = "report only"


def guardrails(run: ReportData) -> list[Guardrail]:
    """All guardrails; those of the arms only after an evaluation."""
    return [*_run(run), *_requests_recognised(run), *_arms(run)]


def _run(run: ReportData) -> list[Guardrail]:
    """Those that were checked before the publication."""
    actions = {"warn": "warns", "block": "blocks the publication"}
    return [
        Guardrail(row["name"], row["measured"], row["bound"], row["passed"], actions[row["action"]])
        for row in run.guardrails.to_pylist()
    ]


def _requests_recognised(run: ReportData) -> list[Guardrail]:
    texts, recognised = recognised_counts(run.requests)
    if not texts:
        return []
    name, threshold = "requests with a recognised term", f"at least {_MIN_RECOGNISED:.0%}"
    return [Guardrail(name, f"{recognised:,} of {texts:,}", threshold, recognised >= _MIN_RECOGNISED * texts)]


def _arms(run: ReportData) -> list[Guardrail]:
    """Guardrail metrics of each arm against the baseline: those of the decision."""
    found = arm_guardrails(run.comparison, run.baseline, [arm for arm in run.arms if arm != run.baseline])
    threshold = f"no more than {MARGIN:.0%} below {run.baseline}"
    passed = {"held": True, "violated": False}
    return [Guardrail(f"{g.label}, {g.arm}", _measured(g), threshold, passed.get(g.finding)) for g in found]


def _measured(guardrail: ArmGuardrail) -> str:
    return guardrail.measured + (", too few users to tell" if guardrail.finding == "not shown" else "")
