"""What the report shows, as plain facts and small Arrow tables: made by the pipeline, kept beside the page as JSON.

`jobs.evaluate` reads it back, adds what the users did afterwards, and writes the page anew.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date as Date
from typing import Any

import pyarrow as pa

from rayrec.contracts.schemas import QUARANTINE
from rayrec.errors import DataError
from rayrec.evaluation.asked import ASKED
from rayrec.evaluation.comparison import COMPARISON
from rayrec.evaluation.drift import DRIFT
from rayrec.evaluation.preferences import PREFERENCE
from rayrec.evaluation.summary import SUMMARY
from rayrec.evaluation.wording import WORDING
from rayrec.offpolicy.published import ESTIMATES

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
        pa.field("harm", pa.float32()),
    ]
)
"""Events taken out, as examples for people."""
EXAMPLE = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),  # "" for a line of the history
        pa.field("rank", pa.int64(), nullable=False),  # in the slate from 1; in the history, oldest first
        pa.field("title", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),  # history: day and event; slate: source
        pa.field("reason", pa.string(), nullable=False),  # why it was taken out; "" if it was not
    ]
)
"""A few users' histories and slates, in words."""
BEFORE_AFTER = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),  # of denoising
        pa.field("place", pa.int64(), nullable=False),  # oldest first
        pa.field("title", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),  # day and event
        pa.field("why", pa.string(), nullable=False),  # it was taken out, in words; "" if it was not
    ]
)
"""A few users' histories, and what is left of them after each denoising variant."""
_TABLES = {
    "quarantine_examples": QUARANTINE,
    "summary": SUMMARY,
    "removed_examples": REMOVED,
    "examples": EXAMPLE,
    "before_after": BEFORE_AFTER,
    "drift": DRIFT,
    "timings": TIMINGS,
    "losses": LOSSES,
    "comparison": COMPARISON,
    "planted": COMPARISON,
    "preferences": PREFERENCE,
    "offpolicy": ESTIMATES,
    "wording": WORDING,
    "asked": ASKED,
}


@dataclass(frozen=True)
class ReportData:
    """All of one day's report. Every text may come from users' data: the template escapes all of it."""

    name: str  # of the config
    date: Date
    run_id: str
    published: bool
    decision: str  # one sentence: what was published, or why nothing was
    arms: Mapping[str, str]  # name -> what it does, in words
    facts: Mapping[str, str]  # engine, models, code version, fingerprint, ...: what one asks about a run
    users_in: int
    users_published: int
    users_quarantined: Mapping[str, int]  # by reason
    users_ineligible: Mapping[str, int]
    rows_read: int
    rows_quarantined: Mapping[str, int]  # by reason
    summary: pa.Table  # SUMMARY, merged over shards
    max_quarantine_share: float = 0.05  # of the config
    quarantine_examples: pa.Table = field(default_factory=QUARANTINE.empty_table)
    removed_examples: pa.Table = field(default_factory=REMOVED.empty_table)
    examples: pa.Table = field(default_factory=EXAMPLE.empty_table)
    before_after: pa.Table = field(default_factory=BEFORE_AFTER.empty_table)
    denoised_for: Mapping[str, str] = field(default_factory=dict)  # denoising variant -> its arms, in words
    earlier: Date | None = None  # the last published day before this one
    drift: pa.Table = field(default_factory=DRIFT.empty_table)
    drift_unknown: str = ""  # why nothing is known of the drift since that day; empty where something is
    timings: pa.Table = field(default_factory=TIMINGS.empty_table)
    losses: pa.Table = field(default_factory=LOSSES.empty_table)
    judged: str = ""  # what `comparison` was judged on, in words
    comparison: pa.Table = field(default_factory=COMPARISON.empty_table)  # what users did after the date
    baseline: str = ""  # the arm that the others are compared with
    headline: str = ""  # the decision, once the day is judged
    verdicts: tuple[str, ...] = ()  # why, an arm at a time
    preferences: pa.Table = field(default_factory=PREFERENCE.empty_table)
    logged: str = ""  # what `offpolicy` was estimated from, in words
    offpolicy: pa.Table = field(default_factory=ESTIMATES.empty_table)
    planted: pa.Table = field(default_factory=COMPARISON.empty_table)  # the demo's planted truth
    wording: pa.Table = field(default_factory=WORDING.empty_table)  # items that owe most to the words beside the title
    asked: pa.Table = field(default_factory=ASKED.empty_table)  # what users ask for in words, and what the LLM heard

    def __post_init__(self) -> None:
        for name, schema in _TABLES.items():
            table = getattr(self, name)
            if not table.schema.equals(schema):
                raise ValueError(f"{name}: columns {table.schema.names} are not those of the report: {schema.names}")

    def to_json(self) -> bytes:
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        tables = {name: content[name].to_pylist() for name in _TABLES}
        return (json.dumps({**content, **tables}, ensure_ascii=False, indent=1, default=str) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> ReportData:
        """Raises DataError if the document cannot be read; sections that an older one does not have are empty."""
        try:
            content: dict[str, Any] = json.loads(data)
            for name, schema in _TABLES.items():
                content[name] = pa.Table.from_pylist(content.get(name, []), schema)
            for name in ("date", "earlier"):
                content[name] = Date.fromisoformat(content[name]) if content[name] else None
            content["verdicts"] = tuple(content["verdicts"])
            return cls(**content)
        except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
            what = f"this is no report of this version of rayrec: {type(error).__name__}: {error}"
            raise DataError(what, where=where, do="run jobs.daily for that date again") from error
