"""The gate before a publication: what blocks, what warns, and the previous date that drift is measured from."""

from __future__ import annotations

import dataclasses
import datetime
import logging
from pathlib import Path

import pyarrow as pa
import pytest
from small_day import DATE, USERS, commit_all, publish_day, record, whole_day

from rayrec.config import load
from rayrec.errors import GuardrailError
from rayrec.monitoring.run_guardrails import GUARDRAIL_FINDINGS
from rayrec.monitoring.run_statistics import count_statistics, slate_statistics
from rayrec.pipeline.publication_gate import previous_run, require_guardrails
from rayrec.publishing import PublishingRun
from rayrec.publishing.manifest import find_manifest
from rayrec.reporting.html_report import write_report
from rayrec.reporting.report_data import ReportData
from rayrec.storage import Storage, layout

CONF = Path(__file__).parents[2] / "jobs" / "demo.yaml"
BEFORE = DATE - datetime.timedelta(days=1)


def statistics() -> pa.Table:
    items = pa.array(sorted(set(whole_day()["item_id"].to_pylist())))
    return slate_statistics(whole_day().combine_chunks(), items, pa.array(["kind"] * len(items)))


def gate(run: PublishingRun, *overrides: str) -> pa.Table:
    return require_guardrails(load(CONF, overrides), run, 1000, {"no_user": 3}, statistics())


@pytest.fixture
def done(local: Storage) -> PublishingRun:
    """A run of which every shard is committed."""
    run = PublishingRun.open(local, record())
    commit_all(run)
    return run


def publish_before(storage: Storage, tmp_path: Path, users: int = len(USERS)) -> None:
    manifest = publish_day(Storage(str(tmp_path / "other"))).manifest
    counts = dataclasses.replace(manifest.users, published=users)
    earlier = dataclasses.replace(manifest, dt=BEFORE, users=counts)
    storage.write(layout.manifest_path(BEFORE), earlier.to_json())


def report(day: datetime.date, counted: pa.Table) -> ReportData:
    return ReportData(
        name="shop",
        date=day,
        run_id="0",
        published=True,
        publication_status="",
        arms={"control": "", "llm": ""},
        facts={},
        users_in=60,
        users_published=60,
        users_quarantined={},
        users_ineligible={},
        rows_read=0,
        rows_quarantined={},
        statistics=counted,
    )


def test_a_blocking_guardrail_names_measurement_bound_and_remedy(done: PublishingRun) -> None:
    given = ("guardrails.users.min_users=61", "guardrails.users.action=block")
    with pytest.raises(GuardrailError) as caught:
        gate(done, *given)
    error = caught.value
    assert error.exit_code == 4
    assert error.what == "nothing is published: guardrail users: users published: 60 users; bound: at least 61"
    assert error.where == "guardrails.users"
    assert "--set guardrails.users.action=warn" in error.hint
    assert find_manifest(done.storage, DATE) is None


def test_the_remedy_publishes_from_the_same_receipts(done: PublishingRun, caplog: pytest.LogCaptureFixture) -> None:
    bound = "guardrails.users.min_users=61"
    with pytest.raises(GuardrailError):
        gate(done, bound, "guardrails.users.action=block")
    with caplog.at_level(logging.WARNING):
        findings = gate(done, bound, "guardrails.users.action=warn")
    assert "guardrail users: users published: 60 users; bound: at least 61" in caplog.text
    assert findings.num_rows


def test_the_defaults_never_block(done: PublishingRun, tmp_path: Path) -> None:
    publish_before(done.storage, tmp_path, users=6000)
    assert {row["action"] for row in gate(done).to_pylist()} == {"warn"}


def test_users_are_compared_with_the_last_published_date(done: PublishingRun, tmp_path: Path) -> None:
    publish_before(done.storage, tmp_path, users=121)
    with pytest.raises(GuardrailError, match=f"60, 49.6% of the 121 of {BEFORE}; bound: at least 50%"):
        gate(done, "guardrails.users.action=block")


def test_a_drift_that_cannot_be_measured_blocks_with_its_remedy(done: PublishingRun, tmp_path: Path) -> None:
    publish_before(done.storage, tmp_path)
    with pytest.raises(GuardrailError, match=r"that date has no report; jobs\.daily for it writes one"):
        gate(done, "guardrails.drift.action=block")


def test_scores_that_drifted_block(done: PublishingRun, tmp_path: Path) -> None:
    publish_before(done.storage, tmp_path)
    other = count_statistics("top score", {"control": {"5": 60.0}, "llm": {"5": 60.0}})
    write_report(report(BEFORE, other), done.storage)
    with pytest.raises(GuardrailError, match=r"score drift from the previous date: top score \(\w+\) \d"):
        gate(done, "guardrails.score_drift.action=block", "guardrails.drift.action=block")


def test_a_run_without_all_shards_is_left_to_the_publication(local: Storage) -> None:
    run = PublishingRun.open(local, record())
    commit_all(run, done=[0])
    assert gate(run, "guardrails.users.min_users=61", "guardrails.users.action=block").equals(
        GUARDRAIL_FINDINGS.empty_table()
    )


@pytest.mark.parametrize(
    ("left", "why"), [(None, "that date has no report"), (b'{"name": "x"}', "is of another version of rayrec")]
)
def test_drift_since_a_date_without_a_readable_report_is_unknown(local: Storage, left: bytes | None, why: str) -> None:
    for day in (datetime.date(2011, 8, 20), BEFORE, DATE):
        local.write(layout.manifest_path(day), b"{}")
    if left is not None:
        local.write(layout.report_data_path(BEFORE), left)
    found = previous_run(local, DATE, statistics())
    assert found is not None
    assert (found.date, found.users) == (BEFORE, None)
    assert why in found.drift_unavailable


def test_drift_is_against_the_last_published_date_before(local: Storage, tmp_path: Path) -> None:
    assert previous_run(local, DATE, statistics()) is None
    publish_before(local, tmp_path)
    write_report(report(BEFORE, statistics()), local)
    local.write(layout.manifest_path(DATE), b"{}")
    found = previous_run(local, DATE, statistics())
    assert found is not None
    assert (found.date, found.users, found.drift_unavailable) == (BEFORE, 60, "")
    assert set(found.drift["status"].to_pylist()) == {"stable"}
