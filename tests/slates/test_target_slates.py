"""Counterfactual propensities: their values and their users."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from made_slates import ATTRIBUTES, KNOWN, stage
from scored_candidates import NAMES, PERSONAL, SOURCES, candidates, item_features, repeated, scored

from rayrec.blending.blender import Blender
from rayrec.config import Config
from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY, INSTRUCTION, SLATE
from rayrec.monitoring.run_statistics import counts_by_arm
from rayrec.numerics.hashing import hash_strings, splitmix64
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline import scoring, scoring_requests, slate_commit
from rayrec.pipeline.interaction_ingest import ShardCounts
from rayrec.pipeline.item_model_fitting import ModelSet
from rayrec.pipeline.run_artifacts import read_run_statistics
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scoring import RerankShard, ScoringSpec, with_scores
from rayrec.pipeline.slate_commit import CommitShard, CommitSpec
from rayrec.publishing.slate_reader import read_counterfactual_propensities
from rayrec.ray_support.stage_runner import WorkItem
from rayrec.slates import POLICIES
from rayrec.slates.counterfactual_propensities import (
    STORED_RANKS,
    drawn_codes,
    first_items,
    slate_probabilities,
    unsupported_share,
)
from rayrec.slates.scored_candidates import CatalogueItems
from rayrec.storage import layout

PINNED = {"pinned": [{"item_id": "item 007", "rank": 2}, {"item_id": "item 011", "rank": 9}]}


def test_the_probability_of_its_own_slates_is_the_logged_propensity() -> None:
    for policy in POLICIES:
        made = stage(policy=policy, rules={**PINNED, "max_per_category": 2}, diversity={"method": "mmr"})
        pool = made.apply_rules(made.candidate_pool(candidates()))
        chosen = made.select(pool, "llm")
        assert np.array_equal(slate_probabilities(made, "llm", pool, chosen.code), chosen.propensity)


def test_a_target_with_a_pin_shows_only_the_pinned_item_at_its_rank() -> None:
    logged, target = stage(policy="epsilon_greedy"), stage(rules=PINNED)
    slates = logged.select(logged.apply_rules(logged.candidate_pool(candidates())), "a").code
    pool = target.apply_rules(target.candidate_pool(candidates()))
    found = slates.like(slate_probabilities(target, "b", pool, slates))
    for user in range(len(slates)):
        assert found[user][1] == (slates[user][1] == 7)
        assert 7 not in np.delete(slates[user], 1)[np.delete(found[user], 1) > 0]


def test_an_item_that_the_target_blocks_has_probability_zero() -> None:
    logged, target = stage(policy="plackett_luce"), stage(policy="plackett_luce", rules={"max_per_category": 1})
    slates = logged.select(logged.apply_rules(logged.candidate_pool(candidates())), "a").code
    pool = target.apply_rules(target.candidate_pool(candidates()))
    found = slates.like(slate_probabilities(target, "b", pool, slates))
    for user in range(len(slates)):
        there = np.isin(slates[user], pool.scored.candidate[user])
        assert np.array_equal(found[user] > 0, there)


def test_the_first_choice_of_every_policy_is_the_probability_of_slates_of_one_item() -> None:
    for policy in POLICIES:
        made = stage(policy=policy)
        scored = made.candidate_pool(candidates()).scored
        chance = scored.scores.like(made.policy.first_choice(scored, 5))
        assert np.bincount(chance.rows, chance.values.astype(float)) == pytest.approx(np.ones(len(scored)), abs=1e-5)
        for nth in (0, 3):
            places = scored.scores.offsets[:-1] + nth
            given = Ragged.from_lengths(places, np.ones(len(scored), np.int64))
            expected = made.policy.probability(scored, given, 1, 5)
            assert chance.values[places] == pytest.approx(expected, abs=1e-6), policy


def test_the_unsupported_share_is_the_target_s_mass_on_items_that_the_logger_lacks() -> None:
    logged, target = stage(policy="plackett_luce", rules={"max_per_category": 2}), stage(policy="plackett_luce")
    own = logged.apply_rules(logged.candidate_pool(candidates())).scored
    other = target.apply_rules(target.candidate_pool(candidates())).scored
    found = unsupported_share(target, "b", other, first_items(logged, "a", own))
    chance = other.scores.like(target.policy.first_choice(other, 0))
    for user in range(len(other)):
        missing = ~np.isin(other.candidate[user], own.candidate[user])
        assert found[user] == pytest.approx(chance[user][missing].sum(), abs=1e-6)
    assert found.mean() > 0.1
    assert not unsupported_share(logged, "a", own, first_items(target, "b", other)).any()


# The commit step with fake models: what is stored, and for which users.


@dataclass
class Record:
    run_id: str = "run"
    identity: str = "run 1"


@dataclass
class Stored:
    """Records what a run commits."""

    record: Record = field(default_factory=Record)
    tables: dict[str, pa.Table] = field(default_factory=dict)

    def commit(self, shard: int, tables: dict[str, pa.Table], users: Any, engine: Any) -> Any:
        self.tables = tables
        return type("Receipt", (), {"users": users})


@dataclass
class Manifest:
    dt: datetime.date
    run_id: str = "run"


UNREAD = [f"user {number:04d}" for number in range(0, 50, 5)]


class Words:
    """Fake LLM scorer: a score per user and item, and no answer for UNREAD."""

    def __init__(self, *_: Any) -> None:
        self.engine_and_method = lambda _: "words"
        self.at = lambda *_: self

    def __call__(self, table: pa.Table) -> pa.Table:
        candidate, users = Ragged.from_arrow(table["candidate"]), hash_strings(table["user_id"])
        drawn = splitmix64(users[candidate.rows] ^ candidate.values.astype(np.uint64)) * 2.0**-64
        failed = np.array([user in UNREAD for user in table["user_id"].to_pylist()])
        scores = candidate.like((5 * drawn).astype(np.float32)).to_arrow(pa.float32())
        scores = pc.if_else(pa.array(failed), None, scores)
        return table.append_column("llm_score", scores).append_column(
            "error", pc.if_else(pa.array(failed), "no answer", pa.scalar(None, pa.string()))
        )


class Loaded:
    """Fake WorkerCache: the catalogue, no instructions, no item model."""

    def __init__(self, catalogue: pa.Table) -> None:
        self.catalogue, self.instructions = catalogue, INSTRUCTION.empty_table()
        self.arms_with_requests = frozenset[str]()
        self.item_model_parts = lambda *_: None


def day_of(
    root: Path, variants: dict[str, Any], assignment: str = "all", within: dict[str, Any] | None = None
) -> RunContext:
    data = {"interactions": {"path": "x"}, "items": {"from_interactions": True}, "shards": 1}
    sources = {name: {} for name in SOURCES}
    config = {
        "name": "shop",
        "data": data,
        "slate": {"size": 8},
        "retrieval": {"sources": sources},
        "denoise": {"method": "none"},
        "rerank": {"method": "none"},
        "arms": {"variants": variants, "assignment": assignment, "layer": within},
        "output": {"root": str(root)},
    }
    return RunContext(Config.model_validate(config), datetime.date(2024, 5, 1))


Commit = Callable[[RunContext], tuple[dict[str, pa.Table], pa.Table]]


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> Commit:
    return partial(commit, monkeypatch)


def commit(monkeypatch: pytest.MonkeyPatch, day: RunContext) -> tuple[dict[str, pa.Table], pa.Table]:
    """The slates by arm and COUNTERFACTUAL_PROPENSITY, for the 50 users of `candidates` in every retrieve variant."""
    catalogue = pa.table({"item_id": KNOWN.ids, "category": pa.array([str(k) for k in KNOWN.category])})
    catalogue = catalogue.append_column("attributes", ATTRIBUTES)
    cache = Loaded(catalogue)
    for module in (scoring, scoring_requests, slate_commit):
        monkeypatch.setattr(module, "worker_cache", lambda _: cache)
    monkeypatch.setattr(slate_commit, "load_blender", lambda *_: Blender.default(PERSONAL, NAMES))
    monkeypatch.setattr(slate_commit, "item_features", lambda _: item_features())
    monkeypatch.setattr(CatalogueItems, "of", lambda *_: KNOWN)
    run = Stored()
    blends = tuple((variant.name, "") for variant in day.arms.variants("rerank"))
    spec = ScoringSpec(day, (ModelSet(0, ""),), "transformers")
    stages = CommitShard(CommitSpec(spec, run, blends, (ShardCounts(0, 50, 50, 0, 0, {}, {}, 0),)))  # type: ignore[arg-type]
    parts = []
    for variant in day.arms.variants("retrieve"):
        table = candidates()
        named = pa.array([variant.name] * len(table))
        table = table.set_column(1, table.schema.field("variant"), named)
        denoise = next(path.at("denoise") for path in day.arms if path.at("retrieve") == variant)
        parts.append(table.filter(pa.array(day.arms.users_of(denoise, table["user_id"]))))
    table = pa.concat_tables(parts).combine_chunks()
    if scoring_requests.scoring_requests(day):
        monkeypatch.setattr(scoring, "ScorerCache", Words)
        monkeypatch.setattr(slate_commit, "write_failed_prompts", lambda *_: None)  # needs the input files' names
        table = RerankShard(spec)(WorkItem(0, 0), table)
    else:
        table = with_scores(table)
    stages(WorkItem(0, 0), table)
    return run.tables, read_counterfactual_propensities(day.storage, Manifest(day.date), 0)  # type: ignore[arg-type]


CHANCE = {"slate": {"size": 30, "policy": "plackett_luce"}}


def test_every_other_arm_has_propensities_of_the_random_slates(tmp_path: Path, committed: Commit) -> None:
    variants = {
        "greedy": {},
        "chance": CHANCE,
        "pins": {"slate": {"size": 9, "policy": "epsilon_greedy", "rules": PINNED}},
    }
    slates, targets = committed(day_of(tmp_path, variants))
    assert targets.schema.equals(COUNTERFACTUAL_PROPENSITY)
    rows = slates["chance"].filter(pc.less_equal(slates["chance"]["rank"], STORED_RANKS))
    assert 0 < rows.num_rows < slates["chance"].num_rows
    for target in ("greedy", "pins"):
        of_it = targets.filter(pc.equal(targets["target_arm"].cast(pa.string()), target))
        own = of_it.filter(pc.is_in(of_it["slate_id"], rows["slate_id"].combine_chunks()))
        assert own.select(["slate_id", "rank"]).equals(rows.select(["slate_id", "rank"]))
        assert pc.max(own.filter(pc.greater(own["rank"], 9))["propensity"]).as_py() == 0
    assert set(targets["target_arm"].cast(pa.string()).unique().to_pylist()) == {"greedy", "chance", "pins"}
    assert set(targets["slate_id"].to_pylist()) == {
        *rows["slate_id"].to_pylist(),
        *slates["pins"]["slate_id"].to_pylist(),
    }


def test_an_arm_with_the_same_settings_has_the_logged_propensities(tmp_path: Path, committed: Commit) -> None:
    """Plackett-Luce depends on the scores alone, so an arm with the same settings has the same probabilities."""
    slates, targets = committed(day_of(tmp_path, {"one": CHANCE, "same": CHANCE}))
    for arm in ("one", "same"):
        rows = slates[arm].filter(pc.less_equal(slates[arm]["rank"], STORED_RANKS))
        own = targets.filter(pc.is_in(targets["slate_id"], rows["slate_id"].combine_chunks()))
        assert np.array_equal(own["propensity"].to_numpy(), rows["propensity"].to_numpy())


def test_deterministic_slates_and_single_arms_have_no_counterfactual_propensities(
    tmp_path: Path, committed: Commit
) -> None:
    for name, variants in {"a": {"one": {}, "two": {"slate": {"size": 3}}}, "b": {"one": CHANCE}}.items():
        day = day_of(tmp_path / name, variants)
        _, targets = committed(day)
        assert targets.equals(COUNTERFACTUAL_PROPENSITY.empty_table())
        assert not day.storage.exists(layout.counterfactual_propensities_path(day.date, "run", 0))


def test_in_a_split_only_arms_with_the_same_candidates_have_propensities(tmp_path: Path, committed: Commit) -> None:
    variants = {"one": CHANCE, "near": {}, "far": {"denoise": {"method": "rules"}}}
    whole, _ = committed(day_of(tmp_path / "all", variants))
    slates, targets = committed(day_of(tmp_path / "split", variants, "split"))
    users = {arm: set(table["user_id"].to_pylist()) for arm, table in slates.items()}
    assert sum(len(own) for own in users.values()) == 50
    for arm, table in slates.items():
        same = whole[arm].filter(pc.is_in(whole[arm]["user_id"], table["user_id"].combine_chunks()))
        assert same.equals(table)
    assert set(targets["target_arm"].cast(pa.string()).to_pylist()) == {"near"}
    assert set(targets["slate_id"].to_pylist()) == set(slates["one"]["slate_id"].to_pylist())


def llm_arms() -> dict[str, Any]:
    """One arm explores without the LLM that two others use; one of those has its own slate size."""
    reads = {"method": "item_token"}
    return {"soft": CHANCE, "llm": {"rerank": reads}, "sharp": {"rerank": reads, "slate": {"size": 5}}}


def of_users(table: pa.Table, target: str, slates: pa.Table) -> pa.Table:
    """COUNTERFACTUAL_PROPENSITY rows of these slates under an arm."""
    own = table.filter(pc.equal(table["target_arm"].cast(pa.string()), target))
    return own.filter(pc.is_in(own["slate_id"], slates["slate_id"].combine_chunks())).combine_chunks()


def test_in_a_split_the_llm_of_an_arm_also_scores_users_of_exploring_arms(tmp_path: Path, committed: Commit) -> None:
    _, together = committed(day_of(tmp_path / "all", llm_arms()))
    slates, targets = committed(day_of(tmp_path / "split", llm_arms(), "split"))
    for arm in ("llm", "sharp"):
        found, expected = (of_users(table, arm, slates["soft"]) for table in (targets, together))
        assert found.num_rows
        assert found.equals(expected)


def test_a_failed_prompt_of_another_arm_removes_that_target_but_no_slate(tmp_path: Path, committed: Commit) -> None:
    day = day_of(tmp_path, llm_arms(), "split")
    slates, targets = committed(day)
    users, unread = candidates()["user_id"], set(UNREAD)
    for path in day.arms:
        members = set(users.filter(pa.array(day.arms.members(users)[path.arm])).to_pylist())
        assert members & unread
        served = set(slates[path.arm]["user_id"].to_pylist())
        assert served == members - (unread if path.arm != "soft" else set())
    for arm in ("llm", "sharp"):
        found = of_users(targets, arm, slates["soft"])["slate_id"]
        read = slates["soft"].filter(pc.invert(pc.is_in(slates["soft"]["user_id"], pa.array(UNREAD))))
        assert set(found.to_pylist()) == set(read["slate_id"].to_pylist())


@pytest.mark.parametrize("assignment", ["all", "split"])
def test_users_outside_the_experiment_have_no_counterfactual_propensities(
    tmp_path: Path, committed: Commit, assignment: str
) -> None:
    within = {"salt": "another", "low": 0.0, "high": 0.5, "default_arm": "soft"}
    day = day_of(tmp_path, llm_arms(), assignment, within)
    slates, targets = committed(day)
    soft = slates["soft"]
    part = soft.filter(pa.array(day.arms.participants(soft["user_id"])))
    assert 0 < part.num_rows < soft.num_rows
    read = part.filter(pc.invert(pc.is_in(part["user_id"], pa.array(UNREAD))))
    assert set(targets["slate_id"].to_pylist()) == set(read["slate_id"].to_pylist())


def test_binding_rules_are_counted_by_arm_for_the_report(tmp_path: Path, committed: Commit) -> None:
    day = day_of(tmp_path, {"plain": {}, "capped": {"slate": {"size": 8, "rules": {"max_per_category": 1}}}})
    slates, _ = committed(day)
    counts = counts_by_arm(read_run_statistics(day, "run"), "rule")
    assert set(counts) == {"capped"}
    assert 0 < counts["capped"]["max_per_category"] <= 50
    longer, capped = (np.unique(slates[arm]["user_id"].to_pylist(), return_counts=True)[1] for arm in slates)
    assert counts["capped"]["short"] == (capped < longer).sum()
    assert slates["capped"].schema.equals(SLATE)


def test_an_exploration_floor_leaves_nothing_of_the_other_arms_unsupported(tmp_path: Path, committed: Commit) -> None:
    capped = {"slate": {"size": 8, "policy": "plackett_luce", "rules": {"max_per_category": 1}}}
    shares = {}
    for floor in (0.0, 0.2):
        arm = {"slate": {**capped["slate"], "exploration_floor": floor}}
        slates, targets = committed(day_of(tmp_path / str(floor), {"capped": arm, "free": CHANCE}))
        shares[floor] = of_users(targets, "free", slates["capped"])["unsupported"].to_numpy().mean()
        assert "exploration" not in slates["free"]["source"].to_pylist()
        assert ("exploration" in slates["capped"]["source"].to_pylist()) == (floor > 0)
    assert shares[0.2] == pytest.approx(0, abs=1e-6)
    assert shares[0.0] > 0.1


@pytest.mark.parametrize("policy", ["plackett_luce", "epsilon_greedy", "greedy"])
def test_draws_from_the_target_are_as_frequent_as_its_propensities(policy: str) -> None:
    """One user many times: at each rank of a given slate, each item's share of the draws is its probability."""
    made, many = stage(policy=policy, rules={"pinned": [{"item_id": "item 150", "rank": 2}]}, size=4), 20_000
    one = scored([5], known=KNOWN)
    assert 150 not in one.candidate.values
    slate = one.candidate.values[[3, 1, 0, 4]].astype(np.int64)
    slates = Ragged.from_lengths(np.tile(slate, many), np.full(many, 4))
    codes = drawn_codes(made, "b", repeated(one, many), slates).reshape(many, 4, -1)
    assert (codes[:, 1] == 150).all()
    for rank, shown in ((0, ()), (2, (3,)), (3, (3, 0))):  # rank 2 is pinned: what is shown there remains a candidate
        for place in range(5):
            given = Ragged.from_lengths(np.array([*shown, place]), [len(shown) + 1])
            expected = 0.0 if place in shown else made.policy.probability(one, given, 3, made.seed("b"))[-1]
            assert (codes[:, rank] == one.candidate.values[place]).mean() == pytest.approx(expected, abs=0.01)
