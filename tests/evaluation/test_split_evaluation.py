"""Evaluation of a split experiment, and of one with users outside its layer."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pytest
from published_shop import CONF, PublishedShop, publish_shop

from rayrec import read_slates
from rayrec.config import load
from rayrec.evaluation.evaluation_job import evaluate
from rayrec.evaluation.slate_evaluation import evaluate_slates
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.run_report import select_example_users
from rayrec.publishing.slate_reader import read_manifest

USERS = 60


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> PublishedShop:
    return publish_shop(tmp_path_factory.mktemp("split"), users=USERS, arms=("arms.assignment=split",))


def test_the_users_of_every_arm_are_evaluated(split: PublishedShop) -> None:
    relevant = pa_csv.read_csv(split.shop.truth_root / "next.csv")
    found = evaluate_slates(split.config.output.root, split.shop.date, relevant)
    rows = [row for row in found.comparison.to_pylist() if row["baseline"] is None and row["metric"] == "hr@10"]
    users = {row["system"]: row["users"] for row in rows}
    assert users["popularity"] == users["control"] + users["llm"] == found.users == USERS
    assert {row["system"]: row["value"] for row in rows}["llm"] > 0.6
    decision = evaluate(split.config, split.shop.date, 7).decision
    assert decision is not None
    assert [conclusion.arm for conclusion in decision.conclusions] == ["llm"]


def test_example_users_are_of_every_arm(split: PublishedShop) -> None:
    day = RunContext(split.config, split.shop.date)
    people = select_example_users(day, read_manifest(split.config.output.root, day.date), 4)
    assert len(people) == 4
    assert {arm for person in people for arm in person.slates} == {"control", "llm"}


def test_feedback_of_users_outside_the_experiment_is_left_out(tmp_path: Path) -> None:
    shop = publish_shop(tmp_path, users=USERS, arms=("arms.layer={salt: a, low: 0, high: 0.4, default_arm: control}",))
    root = shop.config.output.root
    shown = read_slates(root, shop.shop.date).filter(pc.field("rank") <= 3)
    columns = {name: shown[name] for name in ("slate_id", "rank", "item_id", "propensity")}
    pa_csv.write_csv(pa.table({**columns, "reward": [1.0] * len(shown)}), Path(root) / "feedback.csv")
    config = load(CONF, (*shop.sets, f"feedback.root={root}", "feedback.path=feedback.csv"))
    found = evaluate(config, shop.shop.date, 7).off_policy
    assert found is not None
    part = int(RunContext(config, shop.shop.date).arms.participants(pc.unique(shown["user_id"])).sum())
    assert 0 < part < USERS
    own = [row for row in found.estimates.to_pylist() if row["estimator"] == "on_policy"]
    assert {row["target_arm"]: row["slates"] for row in own} == {"control": part, "llm": part}
    assert f"outside the experiment {3 * (USERS - part)}" in found.description
