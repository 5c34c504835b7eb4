"""Off-policy evaluation end to end: an exploring arm is published, feedback logged, other arms estimated from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pytest
from small_runs import CONFIG, Run, Workspace, differences
from typer.testing import CliRunner

from jobs.evaluate import main as evaluate
from rayrec import read_slates
from rayrec.errors import PublicationError
from rayrec.pipeline import daily_run
from rayrec.pipeline.run_report import report_data, select_example_users
from rayrec.publishing.manifest import find_manifest
from rayrec.reporting.html_report import write_report

PLAIN = "{denoise: {method: none}, rerank: {method: none}, slate: {size: 20, %s}}"
GREEDY, SOFT, WARMER, RULED = (
    PLAIN % part
    for part in (
        "policy: greedy",
        "policy: plackett_luce, settings: {temperature: 0.3}",
        "policy: plackett_luce, settings: {temperature: 0.31}",
        "rules: {max_per_category: 3}, diversity: {method: mmr}, fallback: {source: popularity, below_events: 15}",
    )
)
ARMS = f"arms.variants={{soft: {SOFT}, warmer: {WARMER}, greedy: {GREEDY}, ruled: {RULED}}}"


@pytest.fixture(scope="module")
def explored(first_run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, list[str], Path]:
    workspace, _ = first_run
    output = workspace.prepared(tmp_path_factory.mktemp("explored"))
    result = daily_run.run(workspace.context(output, ARMS))
    write_report(report_data(result, select_example_users(result.context, result.manifest, 2)), result.context.storage)
    return workspace, workspace.overrides(output, ARMS), output


def feedback(slates: pa.Table, shown: int = 3) -> pa.Table:
    """Simulated clicks, more likely at top ranks; one row has a propensity that was not published."""
    top = slates.filter(pc.less_equal(slates["rank"], shown))
    rank = top["rank"].to_numpy()
    clicks = (np.random.default_rng(0).random(len(rank)) < 0.5 / rank).astype(np.int64)
    propensity = top["propensity"].to_numpy().copy()
    propensity[0] /= 2
    named = {name: top[name] for name in ("slate_id", "rank", "item_id")}
    return pa.table({**named, "reward": clicks, "propensity": propensity})


def run(sets: list[str], *arguments: str) -> tuple[int, str]:
    given = ["--config", str(CONFIG), *(part for one in sets for part in ("--set", one)), *arguments]
    result = CliRunner().invoke(evaluate, given)
    return result.exit_code, result.output


def test_slates_obey_the_rules_and_cold_users_get_the_fallback(
    explored: tuple[Workspace, list[str], Path],
) -> None:
    workspace, _, output = explored
    ruled = read_slates(output, workspace.dataset.date, arm="ruled")
    items = pa_csv.read_csv(workspace.dataset.data_root / "items.csv").select(["item_id", "category"])
    together = ruled.join(items, "item_id").group_by(["user_id", "category"]).aggregate([([], "count_all")])
    assert pc.max(together["count_all"]).as_py() <= 3
    sources = set(ruled["source"].to_pylist())
    assert "fallback:popularity" in sources
    assert len(sources) > 1


def test_other_arms_are_estimated_from_the_exploring_arm(
    explored: tuple[Workspace, list[str], Path],
) -> None:
    workspace, sets, output = explored
    log = feedback(read_slates(output, workspace.dataset.date, arm="soft"))
    pa_csv.write_csv(log, output / "feedback.csv")
    status, text = run(
        [*sets, f"feedback.root={output}", "feedback.path=feedback.csv"], "--date", workspace.dataset.date.isoformat()
    )
    assert status == 0, text
    assert "propensity_mismatch 1" in text
    metrics = json.loads((output / f"reports/dt={workspace.dataset.date}/metrics.json").read_text())
    found = {(row["target_arm"], row["estimator"]): row for row in metrics["off_policy"]["estimates"]}
    own = found["soft", "on_policy"]
    assert own["value"] == pytest.approx(pc.sum(log["reward"].slice(3)).as_py() / (len(log) / 3 - 1))
    near = found["warmer", "sn_rips"]
    assert near["no_estimate_reason"] is None
    assert near["low"] < own["value"] < near["high"]  # clicks depend on the rank alone, so all arms have the same value
    assert metrics["decision"]["recommendation"].startswith(("Keep soft", "Choose"))
    assert {row["system"] for row in metrics["interleaving"]} == {"warmer", "greedy", "ruled"}
    page = (output / f"reports/dt={workspace.dataset.date}/report.html").read_text()
    for words in (
        "Expected reward of each target arm",
        "Rules that changed slates",
        "max_per_category",
        "segment is significantly worse",
    ):
        assert words in page
    assert (output / f"quarantine/dt={workspace.dataset.date}/feedback/unmatched.parquet").exists()


def test_randomised_slates_are_reproducible(explored: tuple[Workspace, list[str], Path], tmp_path: Path) -> None:
    workspace, _, output = explored
    daily_run.run(workspace.context(workspace.prepared(tmp_path / "out"), ARMS))
    first, second = (read_slates(root, workspace.dataset.date, verify=True) for root in (output, tmp_path / "out"))
    assert not differences(first, second)
    propensity = first.filter(pc.equal(first["arm"], "soft"))["propensity"]
    assert pc.max(propensity).as_py() <= 1
    assert pc.mean(propensity).as_py() < 0.9


def test_feedback_on_unpublished_slates_is_a_clear_error(explored: tuple[Workspace, list[str], Path]) -> None:
    workspace, sets, output = explored
    log = feedback(read_slates(output, workspace.dataset.date, arm="soft"))
    other = log.set_column(0, "slate_id", pa.array([f"x{text}" for text in log["slate_id"].to_pylist()]))
    pa_csv.write_csv(other, output / "other.csv")
    status, text = run(
        [*sets, f"feedback.root={output}", "feedback.path=other.csv"], "--date", workspace.dataset.date.isoformat()
    )
    assert status == 2
    assert "unknown_slate" in text
    assert "Traceback" not in text


def test_a_sample_ratio_mismatch_blocks_the_publication(first_run: Run, tmp_path: Path) -> None:
    workspace, _ = first_run
    output = workspace.prepared(tmp_path)
    arms = f"arms.variants={{a: {GREEDY[:-1]}, share: 3}}, b: {GREEDY}}}"
    strict = workspace.context(output, arms, "arms.assignment=split", "arms.sample_ratio_min_p=0.999")
    with pytest.raises(PublicationError, match="do not have the users of their shares"):
        daily_run.run(strict)
    assert find_manifest(strict.storage, workspace.dataset.date) is None
    usual = workspace.context(output, arms, "arms.assignment=split")
    assert daily_run.run(usual).manifest.users.published == usual.arms.members(_users(workspace))["a"].size


def _users(workspace: Workspace) -> pa.Array:
    return pa.array([f"user-{number:04d}" for number in range(1, workspace.dataset.users + 1)])
