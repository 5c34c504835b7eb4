"""Evaluation of one published date: metrics on later interactions, decision, off-policy estimates, metrics.json."""

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
from rayrec.evaluation.ab_decision import Decision, decide
from rayrec.evaluation.comparison import ALL_USERS
from rayrec.evaluation.new_items import new_items
from rayrec.evaluation.off_policy.feedback_evaluation import OffPolicyResult, evaluate_feedback
from rayrec.evaluation.outcomes import outcomes
from rayrec.evaluation.segment_effects import SegmentEffect, segment_effects
from rayrec.evaluation.slate_evaluation import SlateEvaluation, evaluate_slates
from rayrec.publishing.slate_reader import read_manifest

_INTERVAL = ("value", "low", "high")
_DIFFERENCE = (*_INTERVAL, "relative", "relative_low", "relative_high", "p", "p_adjusted", "min_detectable_effect")


@dataclass(frozen=True)
class EvaluationResult:
    """The evaluation of a date on the interactions of the `horizon_days` from it on."""

    date: Date
    horizon_days: int
    run_id: str
    evaluated_on: str  # users and interactions, as text
    slates: SlateEvaluation
    decision: Decision | None  # None with a single arm
    off_policy: OffPolicyResult | None = None  # None without feedback

    @property
    def segment_effects(self) -> tuple[SegmentEffect, ...]:
        """Effects by segment, shrunk towards that on all users."""
        return segment_effects(self.slates.comparison, self.slates.baseline, self.slates.decision_metric)

    def to_json(self) -> bytes:
        """metrics.json: values by system and metric, differences, interleaving, decision, off-policy estimates."""
        systems: dict[str, dict[str, Any]] = {}
        differences = []
        for row in self.slates.comparison.to_pylist():
            if row["baseline"] is not None:
                named = {key: row[key] for key in ("system", "baseline", "metric", "segment", "users")}
                differences.append(named | {key: row[key] for key in _DIFFERENCE})
            elif row["segment"] == ALL_USERS:
                of_system = systems.setdefault(row["system"], {"users_evaluated": row["users"]})
                of_system[row["metric"]] = {key: row[key] for key in _INTERVAL}
        content = {
            "date": self.date.isoformat(),
            "horizon_days": self.horizon_days,
            "run_id": self.run_id,
            "evaluated_on": self.evaluated_on,
            "users_evaluated": self.slates.users,
            "best_standalone_retriever": self.slates.best_standalone,
            "baseline": self.slates.baseline,
            "decision_metric": self.slates.decision_metric,
            "sample_ratio_p": self.slates.sample_ratio_p,
            "decision": None if self.decision is None else dataclasses.asdict(self.decision),
            "systems": systems,
            "differences": differences,
            "segment_effects": [dataclasses.asdict(effect) for effect in self.segment_effects],
            "interleaving": self.slates.interleaving.to_pylist(),
            "off_policy": None if self.off_policy is None else self.off_policy.to_dict(),
        }
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def evaluate(config: Config, day: Date, horizon_days: int, baseline: str | None = None) -> EvaluationResult:
    """Evaluate the published slates of a date on the interactions of [day, day + horizon_days).

    Raises PublicationError if the date is not published, DataError without interactions to evaluate on.
    """
    root = config.output.root
    manifest = read_manifest(root, day)
    later = outcomes(config, day, horizon_days)
    least = max(1, config.data.min_events)
    relevant = positive_interactions(config, later)
    slates = evaluate_slates(root, day, relevant, min_events=least, baseline=baseline)
    evaluated_on = f"{_description(least, day, horizon_days, later, slates)} {new_items(root, day, relevant)}".strip()
    decision = decide(
        slates.comparison, slates.baseline, list(manifest.arms), slates.decision_metric, slates.sample_ratio_p
    )
    off_policy = (
        None
        if config.feedback is None
        else evaluate_feedback(config.feedback, config.data.root, root, day, slates.baseline)
    )
    return EvaluationResult(day, horizon_days, manifest.run_id, evaluated_on, slates, decision, off_policy)


def positive_interactions(config: Config, later: pa.Table) -> pa.Table:
    """user_id and item_id of OUTCOME rows with an event of positive weight."""
    positive = np.array(list(config.data.events.values())) > 0
    chosen = positive[later["event"].combine_chunks().to_numpy()]
    return later.filter(pa.array(chosen)).select(["user_id", "item_id"])


def _description(least: int, day: Date, horizon_days: int, later: pa.Table, slates: SlateEvaluation) -> str:
    last = day + timedelta(days=horizon_days - 1)
    newest = later["ts"].combine_chunks().cast(pa.int64()).to_numpy().max()
    there = datetime.fromtimestamp(newest / 1e6, UTC).date()
    who = f"{slates.users:,} users with a slate, at least {least} {'event' if least == 1 else 'events'} before {day}"
    what = f"{slates.events:,} new items consumed from {day} to {last}"
    end = f"; the data end on {there}." if there < last else "."
    left_out = f" {slates.left_out[0].upper()}{slates.left_out[1:]}." if slates.left_out else ""
    return f"{who}, and {what}{end}{left_out}"
