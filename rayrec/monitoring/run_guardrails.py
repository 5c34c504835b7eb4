"""Guardrails of a run: its counts against the bounds of the config, before and after its publication."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from rayrec.config import Config
from rayrec.config.guardrails_section import DriftGuardrail
from rayrec.monitoring.drift import DRIFT, SCORES
from rayrec.monitoring.run_statistics import catalogue_coverage
from rayrec.publishing.records import UserCounts

GUARDRAIL_FINDINGS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # in the section `guardrails` of the config
        pa.field("name", pa.string(), nullable=False),
        pa.field("measured", pa.string(), nullable=False),
        pa.field("bound", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),  # warn or block
        pa.field("passed", pa.bool_()),  # null: unknown
    ]
)
_NEAR_LIMIT = 0.9  # share of data.max_quarantine_share at which the guardrail fails
_MAX_NAMED = 5  # statistics named as drifted


@dataclass(frozen=True)
class PreviousRun:
    """The last published date before the run's, and the drift since then."""

    date: datetime.date
    users: int | None  # with a slate; None: its manifest cannot be read
    drift: pa.Table = field(default_factory=DRIFT.empty_table)
    drift_unavailable: str = ""  # why the drift is unknown; empty if it is known


@dataclass(frozen=True)
class RunCounts:
    """What the guardrails are measured on."""

    users: UserCounts
    rows_read: int
    rows_quarantined: Mapping[str, int]  # by reason
    statistics: pa.Table  # RUN_STATISTICS of all shards
    previous: PreviousRun | None  # None: nothing was published before


def guardrail_findings(config: Config, run: RunCounts) -> pa.Table:
    """GUARDRAIL_FINDINGS of a run, one row per bound that the config sets."""
    found = [*_users(config, run), _served(config, run), *_coverage(config, run), _quarantine(config, run)]
    rails = config.guardrails
    found += _drift("drift", "drift from the previous date", rails.drift, run.previous, scores=False)
    found += _drift("score_drift", "score drift from the previous date", rails.score_drift, run.previous, scores=True)
    return pa.Table.from_pylist(
        [dict(zip(GUARDRAIL_FINDINGS.names, row, strict=True)) for row in found], GUARDRAIL_FINDINGS
    )


_Row = tuple[str, str, str, str, str, bool | None]


def _users(config: Config, run: RunCounts) -> Iterator[_Row]:
    rail, published, previous = config.guardrails.users, run.users.published, run.previous
    if rail.min_users is not None:
        bound = f"at least {rail.min_users:,}"
        yield "users", "users published", f"{published:,} users", bound, rail.action, published >= rail.min_users
    if (least := rail.min_share_of_previous) is not None:
        measured: str = "no earlier date"
        passed: bool | None = True
        if previous is not None and previous.users is None:
            measured, passed = f"unknown: the manifest of {previous.date} is of another version of rayrec", None
        elif previous is not None and previous.users is not None:
            share = published / max(previous.users, 1)
            measured, passed = (
                f"{published:,}, {share:.1%} of the {previous.users:,} of {previous.date}",
                share >= least,
            )
        yield "users", "users against the previous date", measured, f"at least {least:.0%}", rail.action, passed


def _served(config: Config, run: RunCounts) -> _Row:
    rail, eligible = config.guardrails.served, run.users.users_in - sum(run.users.ineligible.values())
    share = run.users.published / eligible if eligible else 0.0
    measured = f"{share:.1%} of {eligible:,} eligible users"
    return (
        "served",
        "users with a slate",
        measured,
        f"at least {rail.min_share:.0%}",
        rail.action,
        share >= rail.min_share,
    )


def _coverage(config: Config, run: RunCounts) -> Iterator[_Row]:
    rail = config.guardrails.coverage
    if rail.min_share is None:
        return
    for arm, share in catalogue_coverage(run.statistics).items():
        bound, passed = f"at least {rail.min_share:.1%}", share >= rail.min_share
        yield "coverage", f"share of the catalogue shown, {arm}", f"{share:.1%}", bound, rail.action, passed


def _quarantine(config: Config, run: RunCounts) -> _Row:
    rail, limit = config.guardrails.quarantine, config.data.max_quarantine_share
    share = sum(run.rows_quarantined.values()) / max(run.rows_read, 1)
    most = _NEAR_LIMIT * limit if rail.max_share is None else rail.max_share
    bound = f"at most {most:.2%}; above {limit:.0%} the input is refused"
    return "quarantine", "quarantined rows", f"{share:.2%}", bound, rail.action, share <= most


def _drift(key: str, name: str, rail: DriftGuardrail, previous: PreviousRun | None, *, scores: bool) -> Iterator[_Row]:
    if rail.max_psi is None:
        return
    bound = f"no PSI over {rail.max_psi:g}"
    if previous is not None and previous.drift_unavailable:
        yield key, name, f"unknown: {previous.drift_unavailable}", bound, rail.action, None
        return
    if previous is None:
        yield key, name, "no earlier date", bound, rail.action, True
        return
    rows = [row for row in previous.drift.to_pylist() if (row["statistic"] in SCORES) == scores]
    beyond = sorted((row for row in rows if row["psi"] > rail.max_psi), key=lambda row: -row["psi"])
    measured = ", ".join(f"{row['statistic']} ({row['arm']}) {row['psi']:.2f}" for row in beyond[:_MAX_NAMED])
    more = f" and {len(beyond) - _MAX_NAMED} more" if len(beyond) > _MAX_NAMED else ""
    largest = max((row["psi"] for row in rows), default=0.0)
    yield key, name, f"{measured}{more}" if beyond else f"at most {largest:.2f}", bound, rail.action, not beyond


def outside(findings: pa.Table) -> list[dict[str, str]]:
    """The findings that did not pass, or could not be measured."""
    return [row for row in findings.to_pylist() if not row["passed"]]
