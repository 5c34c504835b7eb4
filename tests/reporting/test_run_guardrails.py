"""Guardrails of a run: each bound at, below and above its limit, and what cannot be measured."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from report_cases import slates

from rayrec.config import Config, load
from rayrec.errors import ConfigError
from rayrec.monitoring.drift import DRIFT
from rayrec.monitoring.run_guardrails import PreviousRun, RunCounts, guardrail_findings, outside
from rayrec.monitoring.run_statistics import RUN_STATISTICS, catalogue_coverage, merge, slate_statistics
from rayrec.publishing.records import UserCounts

CONF = Path(__file__).parents[2] / "jobs" / "demo.yaml"
EARLIER = date(2026, 2, 27)


def config(*overrides: str) -> Config:
    return load(CONF, overrides)


def counts(
    *,
    published: int = 95,
    quarantined: int = 0,
    previous: PreviousRun | None = None,
    statistics: pa.Table | None = None,
) -> RunCounts:
    """A run of 100 eligible users, 10 ineligible ones, and 1,000 rows."""
    users = UserCounts(110, published, {"prompt_failed": 100 - published}, {"too_few_events": 10})
    table = RUN_STATISTICS.empty_table() if statistics is None else statistics
    return RunCounts(users, 1000, {"no_user": quarantined}, table, previous)


def drifted(**psi: float) -> pa.Table:
    rows = [
        {"statistic": name.replace("_", " "), "arm": "a", "psi": value, "status": ""} for name, value in psi.items()
    ]
    return pa.Table.from_pylist(rows, DRIFT)


def missed(run: RunCounts, *overrides: str) -> dict[str, str]:
    """What is measured of each guardrail that did not pass, by key."""
    return {row["key"]: row["measured"] for row in outside(guardrail_findings(config(*overrides), run))}


def test_a_run_within_all_bounds_passes_and_every_default_warns() -> None:
    found = guardrail_findings(config(), counts()).to_pylist()
    assert {row["key"] for row in found} == {"users", "served", "quarantine", "drift", "score_drift"}
    assert {row["passed"] for row in found} == {True}
    assert {row["action"] for row in found} == {"warn"}


def test_users_are_counted_and_compared_with_the_previous_date() -> None:
    assert missed(counts(), "guardrails.users.min_users=95") == {}
    assert missed(counts(), "guardrails.users.min_users=96") == {"users": "95 users"}
    assert missed(counts(previous=PreviousRun(EARLIER, 190))) == {}
    assert missed(counts(previous=PreviousRun(EARLIER, 191))) == {"users": "95, 49.7% of the 191 of 2026-02-27"}
    assert missed(counts(previous=PreviousRun(EARLIER, 191)), "guardrails.users.min_share_of_previous=null") == {}
    assert missed(counts(previous=PreviousRun(EARLIER, None)))["users"].startswith(
        "unknown: the manifest of 2026-02-27"
    )


def test_the_share_of_eligible_users_leaves_out_ineligible_ones() -> None:
    assert missed(counts(published=94)) == {"served": "94.0% of 100 eligible users"}
    assert missed(counts(published=94), "guardrails.served.min_share=0.94") == {}


@pytest.mark.parametrize(("limit", "passed"), [(0.05, False), (0.0555, False), (0.056, True), (1.0, True)])
def test_quarantine_near_the_limit_of_the_data_fails(limit: float, passed: bool) -> None:
    run = counts(quarantined=50)
    assert ("quarantine" not in missed(run, f"data.max_quarantine_share={limit}")) == passed
    assert "quarantine" not in missed(run, "data.max_quarantine_share=0.05", "guardrails.quarantine.max_share=0.05")


def test_drift_of_scores_and_of_the_rest_have_bounds_of_their_own() -> None:
    run = counts(previous=PreviousRun(EARLIER, 95, drifted(category=0.3, score=0.2, top_score=0.26)))
    assert missed(run) == {"drift": "category (a) 0.30", "score_drift": "top score (a) 0.26"}
    assert missed(run, "guardrails.drift.max_psi=0.3", "guardrails.score_drift.max_psi=null") == {}


def test_an_unknown_drift_is_never_passed() -> None:
    found = guardrail_findings(config(), counts(previous=PreviousRun(EARLIER, 95, drift_unavailable="no report")))
    unknown = [(row["key"], row["measured"]) for row in found.to_pylist() if row["passed"] is None]
    assert unknown == [("drift", "unknown: no report"), ("score_drift", "unknown: no report")]


def test_coverage_of_a_small_catalogue_is_exact() -> None:
    table, item_id, category = slates(users=2, items=60, size=5)
    measured = catalogue_coverage(slate_statistics(table, item_id, category))
    for arm in ("control", "llm"):
        shown = {row["item_id"] for row in table.to_pylist() if row["arm"] == arm}
        assert measured[arm] == pytest.approx(len(shown) / 60)
    low = missed(counts(statistics=slate_statistics(table, item_id, category)), "guardrails.coverage.min_share=0.5")
    assert low == {"coverage": f"{measured['llm']:.1%}"}


def test_coverage_of_a_large_catalogue_is_near_its_value_for_any_shards() -> None:
    table, item_id, category = slates(users=40, items=5000, size=50, arms=("a",))
    halves = [table.slice(0, 1000), table.slice(1000)]
    merged = merge([slate_statistics(half, item_id, category) for half in halves])
    share = catalogue_coverage(merged)
    assert share == catalogue_coverage(slate_statistics(table, item_id, category))
    exact = len(set(table["item_id"].to_pylist())) / 5000
    assert share["a"] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 512))


def test_guardrails_change_no_fingerprint() -> None:
    assert config("guardrails.users.action=block", "guardrails.drift.max_psi=0.1").fingerprint == config().fingerprint


def test_another_action_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"guardrails\.users\.action: Input should be 'warn' or 'block'"):
        config("guardrails.users.action=stop")
