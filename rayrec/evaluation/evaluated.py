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
from rayrec.evaluation.comparison import EVERYBODY
from rayrec.evaluation.decision import Decision, decide
from rayrec.evaluation.judging import DECISIVE, Judgement, judge_day
from rayrec.evaluation.logged import Logged, judge_feedback
from rayrec.evaluation.outcomes import outcomes
from rayrec.evaluation.report_data import ReportData
from rayrec.offpolicy.published import ESTIMATES
from rayrec.publishing.reader import read_manifest

_INTERVAL = ("value", "low", "high")
_DIFFERENCE = (*_INTERVAL, "relative", "relative_low", "relative_high", "p", "p_adjusted", "detectable")


@dataclass(frozen=True)
class Evaluated:
    """A day judged by the `horizon_days` from it on."""

    date: Date
    horizon_days: int
    run_id: str
    judged_on: str  # in words
    found: Judgement
    decision: Decision | None  # None where there is but one arm
    logged: Logged | None = None  # None without feedback

    def to_json(self) -> bytes:
        """metrics.json: values by system and metric, differences, preferences, the decision."""
        systems: dict[str, dict[str, Any]] = {}
        differences = []
        for row in self.found.comparison.to_pylist():
            if row["against"] is not None:
                named = {key: row[key] for key in ("system", "against", "metric", "segment", "users")}
                differences.append(named | {key: row[key] for key in _DIFFERENCE})
            elif row["segment"] == EVERYBODY:
                of_system = systems.setdefault(row["system"], {"users_judged": row["users"]})
                of_system[row["metric"]] = {key: row[key] for key in _INTERVAL}
        content = {
            "date": self.date.isoformat(),
            "horizon_days": self.horizon_days,
            "run_id": self.run_id,
            "judged": self.judged_on,
            "users_judged": self.found.users,
            "best_retriever_alone": self.found.best_alone,
            "baseline": self.found.baseline,
            "decision": None if self.decision is None else dataclasses.asdict(self.decision),
            "systems": systems,
            "differences": differences,
            "preferences": self.found.preferences.to_pylist(),
            "offpolicy": None if self.logged is None else self.logged.to_plain(),
        }
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()

    def on(self, report: ReportData) -> ReportData:
        """The day's report with what was found."""
        decision, logged = self.decision, self.logged or Logged("", ESTIMATES.empty_table())
        return dataclasses.replace(
            report,
            judged=self.judged_on,
            comparison=self.found.comparison,
            baseline=self.found.baseline,
            preferences=self.found.preferences,
            logged=logged.words,
            offpolicy=logged.estimates,
            headline="" if decision is None else decision.headline,
            verdicts=() if decision is None else tuple(verdict.sentence for verdict in decision.verdicts),
        )


def evaluate(config: Config, day: Date, horizon_days: int, baseline: str | None = None) -> Evaluated:
    """Judge the published slates of a day by what users did in [day, day + horizon_days).

    Raises PublicationError if the day is not published, DataError where there is nothing to judge by.
    """
    root = config.output.root
    manifest = read_manifest(root, day)
    acts = outcomes(config, day, horizon_days)
    least = max(1, config.data.min_events)
    found = judge_day(root, day, _wanted(config, acts), min_events=least, baseline=baseline)
    judged_on = _in_words(least, day, horizon_days, acts, found)
    decision = decide(found.comparison, found.baseline, list(manifest.arms), DECISIVE)
    logged = None if config.feedback is None else judge_feedback(config.feedback, config.data.root, root, day)
    return Evaluated(day, horizon_days, manifest.run_id, judged_on, found, decision, logged)


def _wanted(config: Config, acts: pa.Table) -> pa.Table:
    positive = np.array(list(config.data.events.values())) > 0
    chosen = positive[acts["event"].combine_chunks().to_numpy()]
    return acts.filter(pa.array(chosen)).select(["user_id", "item_id"])


def _in_words(least: int, day: Date, horizon_days: int, acts: pa.Table, found: Judgement) -> str:
    last = day + timedelta(days=horizon_days - 1)
    newest = acts["ts"].combine_chunks().cast(pa.int64()).to_numpy().max()
    there = datetime.fromtimestamp(newest / 1e6, UTC).date()
    who = f"{found.users:,} users with a slate, at least {least} {'event' if least == 1 else 'events'} before {day}"
    what = f"{found.events:,} new items taken from {day} to {last}"
    end = f"; the data end on {there}." if there < last else "."
    left_out = f" {found.left_out[0].upper()}{found.left_out[1:]}." if found.left_out else ""
    return f"{who}, and {what}{end}{left_out}"
