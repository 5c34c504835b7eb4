"""Data of a report: facts and small Arrow tables. The pipeline creates it, report.json stores it.

`jobs.evaluate` reads it, adds the evaluation, and writes the page again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date as Date
from typing import Any

import pyarrow as pa

from rayrec.data.schemas import QUARANTINE
from rayrec.errors import DataError
from rayrec.evaluation.comparison import COMPARISON
from rayrec.evaluation.denoising_contest import ARM_CONTEST
from rayrec.evaluation.evaluation_job import EvaluationResult
from rayrec.evaluation.off_policy.arm_estimates import OFF_POLICY_ESTIMATES
from rayrec.evaluation.off_policy.interleaving import INTERLEAVING
from rayrec.monitoring.drift import DRIFT
from rayrec.monitoring.item_text_effects import ITEM_TEXT_EFFECTS
from rayrec.monitoring.request_recognition import REQUEST_RECOGNITION
from rayrec.monitoring.run_guardrails import GUARDRAIL_FINDINGS
from rayrec.monitoring.run_statistics import RUN_STATISTICS

TIMINGS = pa.schema(
    [
        pa.field("stage", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("done", pa.int64(), nullable=False),  # units of work: users, rows, steps
        pa.field("unit", pa.string(), nullable=False),
    ]
)
LOSSES = pa.schema([pa.field("step", pa.int64(), nullable=False), pa.field("loss", pa.float64(), nullable=False)])
REMOVED = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("ts", pa.int64(), nullable=False),  # microseconds UTC
        pa.field("reason", pa.string(), nullable=False),
        pa.field("influence", pa.float32()),
        pa.field("negative_influence", pa.float32()),
    ]
)
"""Examples of removed events."""
EXAMPLE = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),  # "" for a line of the history
        pa.field("rank", pa.int64(), nullable=False),  # in the slate from 1; in the history, oldest first
        pa.field("title", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),  # history: day and event; slate: source
        pa.field("reason", pa.string(), nullable=False),  # of its removal; "" if it was retained
    ]
)
"""Histories and slates of the example users."""
EXPLANATION = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),  # from 1, the most important first
        pa.field("title", pa.string(), nullable=False),  # of an item of the history; "" if none explains the slate
        pa.field("summary", pa.string(), nullable=False),  # what the items keep, as text
    ]
)
"""The smallest part of the history that keeps each slate of the example users."""
BEFORE_AFTER = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),  # of denoising
        pa.field("position", pa.int64(), nullable=False),  # oldest first
        pa.field("title", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),  # day and event
        pa.field("explanation", pa.string(), nullable=False),  # of its removal, as text; "" if it was retained
    ]
)
"""Histories of a few users before and after each denoising variant."""


USER_TABLES = ("quarantine_examples", "removed_examples", "examples", "before_after", "explanations")
"""The tables of a report with rows of single users."""


@dataclass(frozen=True)
class ReportData:
    """All data of one report. Any text may come from users' data: the template escapes all of it."""

    name: str  # of the config
    date: Date
    run_id: str
    published: bool
    publication_status: str  # one sentence: what was published, or why nothing was
    arms: Mapping[str, str]  # name -> description
    facts: Mapping[str, str]  # engine, models, code version, fingerprint, ...
    users_in: int
    users_published: int
    users_quarantined: Mapping[str, int]  # by reason
    users_ineligible: Mapping[str, int]
    rows_read: int
    rows_quarantined: Mapping[str, int]  # by reason
    statistics: pa.Table = field(default_factory=RUN_STATISTICS.empty_table)  # merged over shards
    guardrails: pa.Table = field(default_factory=GUARDRAIL_FINDINGS.empty_table)  # of the run
    quarantine_examples: pa.Table = field(default_factory=QUARANTINE.empty_table)
    removed_examples: pa.Table = field(default_factory=REMOVED.empty_table)
    examples: pa.Table = field(default_factory=EXAMPLE.empty_table)
    explanations: pa.Table = field(default_factory=EXPLANATION.empty_table)
    before_after: pa.Table = field(default_factory=BEFORE_AFTER.empty_table)
    arms_by_variant: Mapping[str, str] = field(default_factory=dict)  # denoising variant -> its arms, as text
    denoising_contest: pa.Table = field(default_factory=ARM_CONTEST.empty_table)  # of `denoise.method: auto`
    previous_date: Date | None = None  # the last published date before this one
    drift: pa.Table = field(default_factory=DRIFT.empty_table)
    drift_unavailable: str = ""  # why drift from that date is unknown; empty if it is known
    timings: pa.Table = field(default_factory=TIMINGS.empty_table)
    losses: pa.Table = field(default_factory=LOSSES.empty_table)
    evaluated_on: str = ""  # users and interactions behind `comparison`, as text
    comparison: pa.Table = field(default_factory=COMPARISON.empty_table)  # on interactions after the date
    baseline: str = ""  # the arm that other arms are compared with
    recommendation: str = ""  # the A/B decision, after an evaluation
    arm_conclusions: tuple[str, ...] = ()  # the reasons, one per arm
    interleaving: pa.Table = field(default_factory=INTERLEAVING.empty_table)
    off_policy_source: str = ""  # the feedback behind `off_policy`, as text
    off_policy: pa.Table = field(default_factory=OFF_POLICY_ESTIMATES.empty_table)
    live_experiment: tuple[str, ...] = ()  # what the arms' own rewards say, as text
    ground_truth: pa.Table = field(default_factory=COMPARISON.empty_table)  # of the synthetic dataset
    text_ablation: pa.Table = field(default_factory=ITEM_TEXT_EFFECTS.empty_table)
    requests: pa.Table = field(default_factory=REQUEST_RECOGNITION.empty_table)

    def __post_init__(self) -> None:
        for name, schema in _table_schemas().items():
            table = getattr(self, name)
            if not table.schema.equals(schema):
                raise ValueError(f"{name}: columns {table.schema.names} are not those of the report: {schema.names}")

    def without_users(self) -> ReportData:
        """The report without the rows of single users, for places that an erasure does not reach."""
        return dataclasses.replace(self, **{name: getattr(self, name).slice(0, 0) for name in USER_TABLES})

    def with_evaluation(self, result: EvaluationResult) -> ReportData:
        """The report with an evaluation."""
        decision, off_policy = result.decision, result.off_policy
        return dataclasses.replace(
            self,
            evaluated_on=result.evaluated_on,
            comparison=result.slates.comparison,
            baseline=result.slates.baseline,
            interleaving=result.slates.interleaving,
            off_policy_source="" if off_policy is None else off_policy.description,
            off_policy=OFF_POLICY_ESTIMATES.empty_table() if off_policy is None else off_policy.estimates,
            live_experiment=() if off_policy is None or off_policy.live is None else tuple(off_policy.live.sentences),
            recommendation="" if decision is None else decision.recommendation,
            arm_conclusions=() if decision is None else tuple(arm.sentence for arm in decision.conclusions),
        )

    def to_json(self) -> bytes:
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        tables = {name: content[name].to_pylist() for name in _table_schemas()}
        return (json.dumps({**content, **tables}, ensure_ascii=False, indent=1, default=str) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> ReportData:
        """Parse report.json. Raises DataError if it cannot be read; missing tables are empty."""
        try:
            content: dict[str, Any] = json.loads(data)
            content.pop("max_quarantine_share", None)  # of reports from before GUARDRAIL_FINDINGS
            for name, schema in _table_schemas().items():
                content[name] = pa.Table.from_pylist(content.get(name, []), schema)
            for name in ("date", "previous_date"):
                content[name] = Date.fromisoformat(content[name]) if content[name] else None
            for name in ("arm_conclusions", "live_experiment"):
                content[name] = tuple(content[name])
            return cls(**content)
        except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
            what = f"this report is of another version of rayrec: {type(error).__name__}: {error}"
            raise DataError(what, where=where, hint="run jobs.daily for that date again") from error


def _table_schemas() -> dict[str, pa.Schema]:
    """Schema of each table field, from its default."""
    factories = {f.name: f.default_factory for f in dataclasses.fields(ReportData)}
    defaults = {name: make() for name, make in factories.items() if make is not dataclasses.MISSING}
    return {name: table.schema for name, table in defaults.items() if isinstance(table, pa.Table)}
