"""What `jobs.evaluate` found of a day: what it was judged on, the tables, the decision; as JSON and on the report."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import date as Date
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.config import Config
from rayrec.evaluation.comparison import ALL_USERS
from rayrec.evaluation.decision import Decision, decide
from rayrec.evaluation.logged_rewards import OffPolicyResult, evaluate_feedback
from rayrec.evaluation.off_policy.published_feedback import OFF_POLICY_ESTIMATES
from rayrec.evaluation.outcomes import outcomes
from rayrec.evaluation.slate_evaluation import PRIMARY_METRIC, SlateEvaluation, evaluate_slates
from rayrec.publishing.slate_reader import read_manifest
from rayrec.reporting.report_data import ReportData

_INTERVAL = ("value", "low", "high")
_DIFFERENCE = (*_INTERVAL, "relative", "relative_low", "relative_high", "p", "p_adjusted", "detectable")


@dataclass(frozen=True)
class EvaluationResult:
    """A day judged by the `horizon_days` from it on."""

    date: Date
    horizon_days: int
    run_id: str
    evaluated_on: str  # in words
    found: SlateEvaluation
    decision: Decision | None  # None where there is but one arm
    off_policy: OffPolicyResult | None = None  # None without feedback

    def to_json(self) -> bytes:
        """metrics.json: values by system and metric, differences, preferences, the decision."""
        systems: dict[str, dict[str, Any]] = {}
        differences = []
        for row in self.found.comparison.to_pylist():
            if row["against"] is not None:
                named = {key: row[key] for key in ("system", "against", "metric", "segment", "users")}
                differences.append(named | {key: row[key] for key in _DIFFERENCE})
            elif row["segment"] == ALL_USERS:
                of_system = systems.setdefault(row["system"], {"users_judged": row["users"]})
                of_system[row["metric"]] = {key: row[key] for key in _INTERVAL}
        content = {
            "date": self.date.isoformat(),
            "horizon_days": self.horizon_days,
            "run_id": self.run_id,
            "judged": self.evaluated_on,
            "users_judged": self.found.users,
            "best_retriever_alone": self.found.best_standalone,
            "baseline": self.found.baseline,
            "decision": None if self.decision is None else dataclasses.asdict(self.decision),
            "systems": systems,
            "differences": differences,
            "preferences": self.found.interleaving.to_pylist(),
            "offpolicy": None if self.off_policy is None else self.off_policy.to_dict(),
        }
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()

    def on(self, report: ReportData) -> ReportData:
        """The day's report with what was found."""
        decision, logged = self.decision, self.off_policy or OffPolicyResult("", OFF_POLICY_ESTIMATES.empty_table())
        return dataclasses.replace(
            report,
            evaluated_on=self.evaluated_on,
            comparison=self.found.comparison,
            baseline=self.found.baseline,
            interleaving=self.found.interleaving,
            off_policy_source=logged.description,
            off_policy=logged.estimates,
            recommendation="" if decision is None else decision.recommendation,
            arm_conclusions=() if decision is None else tuple(verdict.sentence for verdict in decision.conclusions),
        )


def evaluate(config: Config, day: Date, horizon_days: int, baseline: str | None = None) -> EvaluationResult:
    """Judge the published slates of a day by what users did in [day, day + horizon_days).

    Raises PublicationError if the day is not published, DataError where there is nothing to judge by.
    """
    root = config.output.root
    manifest = read_manifest(root, day)
    acts = outcomes(config, day, horizon_days)
    least = max(1, config.data.min_events)
    found = evaluate_slates(root, day, _wanted(config, acts), min_events=least, baseline=baseline)
    evaluated_on = _in_words(least, day, horizon_days, acts, found)
    decision = decide(found.comparison, found.baseline, list(manifest.arms), PRIMARY_METRIC)
    logged = None if config.feedback is None else evaluate_feedback(config.feedback, config.data.root, root, day)
    return EvaluationResult(day, horizon_days, manifest.run_id, evaluated_on, found, decision, logged)


def _wanted(config: Config, acts: pa.Table) -> pa.Table:
    positive = np.array(list(config.data.events.values())) > 0
    chosen = positive[acts["event"].combine_chunks().to_numpy()]
    return acts.filter(pa.array(chosen)).select(["user_id", "item_id"])


def _in_words(least: int, day: Date, horizon_days: int, acts: pa.Table, found: SlateEvaluation) -> str:
    last = day + timedelta(days=horizon_days - 1)
    newest = acts["ts"].combine_chunks().cast(pa.int64()).to_numpy().max()
    there = datetime.fromtimestamp(newest / 1e6, UTC).date()
    who = f"{found.users:,} users with a slate, at least {least} {'event' if least == 1 else 'events'} before {day}"
    what = f"{found.events:,} new items taken from {day} to {last}"
    end = f"; the data end on {there}." if there < last else "."
    left_out = f" {found.left_out[0].upper()}{found.left_out[1:]}." if found.left_out else ""
    return f"{who}, and {what}{end}{left_out}"
