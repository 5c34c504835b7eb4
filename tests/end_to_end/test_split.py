"""A run with users split over its arms: every user is served and counted."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_runs import USERS, Run, Workspace, differences

from rayrec import read_slates
from rayrec.evaluation.evaluation_job import evaluate
from rayrec.monitoring.run_statistics import counts_by_arm
from rayrec.pipeline import daily_run
from rayrec.pipeline.daily_run import RunResult
from rayrec.pipeline.run_artifacts import read_run_statistics
from rayrec.publishing.slate_reader import read_counterfactual_propensities

SPLIT = (
    "arms.assignment=split",
    "arms.variants.soft={rerank: {method: none}, slate: {policy: plackett_luce, settings: {temperature: 0.3}}}",
)
"""Two arms as in the first run, and an exploring one that shares all but the LLM with `llm`."""


@pytest.fixture(scope="module")
def split(first_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    workspace, _ = first_run
    return workspace, daily_run.run(workspace.context(workspace.prepared(tmp_path_factory.mktemp("split")), *SPLIT))


def slates_of(workspace: Workspace, result: RunResult, arm: str) -> pa.Table:
    return read_slates(result.context.config.output.root, workspace.dataset.date, arm=arm)


def test_a_user_gets_the_same_slate_as_when_their_arm_serves_all_users(first_run: Run, split: Run) -> None:
    workspace, together = first_run
    _, apart = split
    users = 0
    for arm in ("control", "llm"):
        own, all_of_it = slates_of(workspace, apart, arm), slates_of(workspace, together, arm)
        same = all_of_it.filter(pc.is_in(all_of_it["user_id"], own["user_id"].combine_chunks()))
        assert not differences(own, same, but=("slate_id",))
        users += len(pc.unique(own["user_id"]))
    assert users + len(pc.unique(slates_of(workspace, apart, "soft")["user_id"])) == USERS


def test_an_llm_scores_the_users_of_its_arm_and_of_the_exploring_arm(split: Run) -> None:
    workspace, result = split
    users = {arm: len(pc.unique(slates_of(workspace, result, arm)["user_id"])) for arm in result.manifest.arms}
    assert sum(result.manifest.engine.values()) == users["llm"] + users["soft"]
    shards = range(result.manifest.shards)
    targets = pa.concat_tables(
        [read_counterfactual_propensities(result.context.storage, result.manifest, shard) for shard in shards]
    )
    assert set(targets["target_arm"].cast(pa.string()).to_pylist()) == {"llm"}  # control denoises differently
    assert set(targets["slate_id"].to_pylist()) == set(slates_of(workspace, result, "soft")["slate_id"].to_pylist())


def test_every_history_is_counted_once(split: Run) -> None:
    _, result = split
    lengths = counts_by_arm(read_run_statistics(result.context, result.manifest.run_id), "history length")
    assert sum(lengths["all"].values()) == USERS


def test_the_users_of_every_arm_are_evaluated(first_run: Run, split: Run) -> None:
    workspace, together = first_run
    _, apart = split
    everybody, found = (evaluate(result.context.config, workspace.dataset.date, 7) for result in (together, apart))
    rows_of = [
        row for row in found.slates.comparison.to_pylist() if row["metric"] == "hr@10" and row["baseline"] is None
    ]
    judged = {row["system"]: row["users"] for row in rows_of}
    assert found.slates.users == everybody.slates.users == sum(judged[arm] for arm in apart.manifest.arms)
    assert found.decision is not None
    assert [verdict.arm for verdict in found.decision.conclusions] == ["llm", "soft"]
