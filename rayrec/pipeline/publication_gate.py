"""The gate before a publication: the guardrails of the config, on the merged counts of all shards.

It reads receipts and run statistics, no slates, so it costs seconds.
"""

from __future__ import annotations

import logging
from datetime import date as Date

import pyarrow as pa

from rayrec.config import Config
from rayrec.errors import DataError, GuardrailError, MissingFileError, PublicationError
from rayrec.monitoring.drift import drift
from rayrec.monitoring.run_guardrails import GUARDRAIL_FINDINGS, PreviousRun, RunCounts, guardrail_findings, outside
from rayrec.publishing.manifest import find_manifest, published_dates
from rayrec.publishing.publishing_run import PublishingRun
from rayrec.publishing.records import UserCounts
from rayrec.reporting.html_report import read_report
from rayrec.storage import Storage

_LOG = logging.getLogger(__name__)


def require_guardrails(
    config: Config, run: PublishingRun, rows_read: int, rows_quarantined: dict[str, int], statistics: pa.Table
) -> pa.Table:
    """GUARDRAIL_FINDINGS of a run whose shards are all done; those outside their bounds are logged.

    Raises GuardrailError if one of them has `action: block`. Empty if a shard is missing or nobody has a slate: the
    publication then says so.
    """
    receipts, users = run.receipts(), UserCounts(0, 0)
    for receipt in receipts.values():
        users = users + receipt.users
    if len(receipts) < run.record.shards or not users.published:
        return GUARDRAIL_FINDINGS.empty_table()
    previous = previous_run(run.storage, run.record.date, statistics)
    findings = guardrail_findings(config, RunCounts(users, rows_read, rows_quarantined, statistics, previous))
    missed = outside(findings)
    for row in missed:
        _LOG.warning("%s", in_words(row))
    if blocking := [row for row in missed if row["action"] == "block"]:
        keys = list(dict.fromkeys(row["key"] for row in blocking))
        remedy = " ".join(f"--set guardrails.{key}.action=warn" for key in keys)
        raise GuardrailError(
            "nothing is published: " + "; ".join(in_words(row) for row in blocking),
            where=", ".join(f"guardrails.{key}" for key in keys),
            hint=f"find the cause in the inputs or the config; to publish all the same run again with {remedy} "
            "(no shard is scored again)",
        )
    return findings


def previous_run(storage: Storage, date: Date, statistics: pa.Table) -> PreviousRun | None:
    """The last published date before `date`, and the drift of RUN_STATISTICS since then; None if there is none."""
    for there in reversed([there for there in published_dates(storage.root) if there < date]):
        try:
            manifest = find_manifest(storage, there)
        except PublicationError:  # of another version of rayrec
            users = None
        else:
            if manifest is None:  # withdrawn meanwhile
                continue
            users = manifest.users.published
        try:
            return PreviousRun(there, users, drift(read_report(storage, there.isoformat()).statistics, statistics))
        except MissingFileError:  # the job was killed between publication and report
            why = "that date has no report; jobs.daily for it writes one"
        except DataError:
            why = "that date's report is of another version of rayrec; jobs.daily for it writes a new one"
        return PreviousRun(there, users, drift_unavailable=why)
    return None


def in_words(row: dict[str, str]) -> str:
    """One row of GUARDRAIL_FINDINGS as text."""
    return f"guardrail {row['key']}: {row['name']}: {row['measured']}; bound: {row['bound']}"
