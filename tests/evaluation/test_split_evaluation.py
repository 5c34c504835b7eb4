"""Evaluation of a split experiment, and of one with users outside its layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pytest
from published_shop import CONF, PublishedShop, publish_shop

from rayrec import read_slates
from rayrec.config import load
from rayrec.evaluation.ab_decision import decide
from rayrec.evaluation.comparison import compare
from rayrec.evaluation.evaluation_job import evaluate
from rayrec.evaluation.metrics import RelevantItems, outcome_metrics, user_metrics
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


def test_users_who_consumed_nothing_count_in_a_split(split: PublishedShop) -> None:
    relevant = pa_csv.read_csv(split.shop.truth_root / "next.csv").slice(0, USERS // 2)
    found = evaluate_slates(split.config.output.root, split.shop.date, relevant)
    assert (found.users, found.decision_metric) == (USERS, "conversion_cuped")
    rows = [row for row in found.comparison.to_pylist() if row["baseline"] is None and not row["segment"]]
    value = {(row["system"], row["metric"]): (row["value"], row["users"]) for row in rows}
    arms = [value[arm, "conversion"] for arm in ("control", "llm")]
    assert sum(share * users for share, users in arms) == pytest.approx(USERS // 2)
    assert sum(users for _, users in arms) == USERS
    assert sum(value[arm, "ndcg@10"][1] for arm in ("control", "llm")) == USERS // 2


def test_an_arm_that_turns_users_into_consumers_is_found_better() -> None:
    """Judged on consumers alone it was found in 3 of 60 worlds: the arm itself chooses who is judged."""
    rng = np.random.default_rng(0)
    ids, items = pa.array([f"u{n:05d}" for n in range(4000)]), pa.array([f"i{n:02d}" for n in range(40)])
    for _ in range(5):
        in_b = rng.random(4000) < 0.5
        buys = rng.random(4000) < np.where(in_b, 0.2 + 0.08 * 0.8, 0.2)
        slates = np.argsort(rng.random((4000, 40)))[:, :10]
        bought = slates[np.arange(4000), rng.integers(10, size=4000)]
        arms = []
        for name, mine in (("a", ~in_b), ("b", in_b)):
            users = ids.filter(pa.array(mine))
            consumers = pa.array(mine & buys)
            pairs = ids.filter(consumers), items.take(pa.array(bought)).filter(consumers)
            relevant = RelevantItems.from_pairs(*pairs, items, users)
            rank = np.tile(np.arange(1, 11), int(mine.sum()))
            rows = {"user_id": users.take(pa.array(np.repeat(np.arange(len(users)), 10))), "rank": rank}
            table = pa.table({**rows, "item_id": items.take(pa.array(slates[mine].ravel()))})
            found = user_metrics(name, table, relevant)
            arms.append(replace(found, values=outcome_metrics(found, relevant), rows=np.flatnonzero(mine)))
        decision = decide(compare(arms, seed=0, baselines=["a"]), "a", ["a", "b"], "conversion")
        assert decision is not None
        assert decision.conclusions[0].conclusion == "better"


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
