"""The arm plan: shared stages and stable assignment of users."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Config
from rayrec.errors import ConfigError
from rayrec.experiments.arm_plan import ArmPlan, plan_arms
from rayrec.experiments.sample_ratio import sample_ratio_p
from rayrec.numerics.hashing import shard_of

DATA = {"interactions": {"path": "x"}, "items": {"from_interactions": True}}
USERS = pa.array([f"user {number}" for number in range(20_000)])


def config(variants: dict[str, Any], **arms: Any) -> Config:
    return Config.model_validate({"name": "shop", "data": DATA, "arms": {"variants": variants, **arms}})


CONTROL = {"denoise": {"method": "none"}, "rerank": {"method": "none"}}


def test_arms_share_every_stage_they_agree_on() -> None:
    plan = plan_arms(config({"control": CONTROL, "llm": {}, "llm_short": {"slate": {"size": 10}}}))
    assert [len(plan.variants(stage)) for stage in ("denoise", "retrieve", "rerank", "slate")] == [2, 2, 2, 3]
    control, llm, short = plan
    assert llm.at("rerank") == short.at("rerank")
    assert llm.at("slate") != short.at("slate")
    assert control.at("denoise").name.startswith("none-")
    assert plan.arms_of(llm.at("denoise")) == ("llm", "llm_short")


def test_equal_settings_after_different_stages_are_different_variants() -> None:
    plan = plan_arms(config({"a": {"denoise": {"method": "none"}}, "b": {}}))
    one, other = (path.at("retrieve") for path in plan)
    assert one.settings == other.settings
    assert one.name != other.name
    assert (one.parent, other.parent) == tuple(path.at("denoise").name for path in plan)


def test_variant_names_are_stable_between_runs_and_configs() -> None:
    first = plan_arms(config({"llm": {}}))
    second = plan_arms(config({"control": CONTROL, "better": {}}))
    assert first.paths[0].variants == second.paths[1].variants


def test_the_order_of_sources_is_part_of_a_variant() -> None:
    one = {"retrieval": {"sources": {"ease": {}, "popularity": {}}}}
    other = {"retrieval": {"sources": {"popularity": {}, "ease": {}}}}
    assert len(plan_arms(config({"a": one, "b": other})).variants("retrieve")) == 2


def assigned(plan: ArmPlan, users: pa.Array) -> np.ndarray:
    """Index of each user's arm in a split."""
    return np.argmax(list(plan.members(users).values()), axis=0)


def test_each_user_is_in_every_arm_or_in_exactly_one() -> None:
    everyone = plan_arms(config({"a": {}, "b": CONTROL})).members(USERS)
    assert all(users.all() for users in everyone.values())
    split = plan_arms(config({"a": {}, "b": CONTROL}, assignment="split")).members(USERS)
    assert (sum(users.astype(int) for users in split.values()) == 1).all()


def test_arms_have_their_shares_of_all_users_and_of_each_shard() -> None:
    plan = plan_arms(config({"a": {"share": 3}, "b": {"share": 1}}, assignment="split"))
    arm = assigned(plan, USERS)
    assert (arm == 1).mean() == pytest.approx(0.25, abs=0.015)
    shard = shard_of(USERS, 16)
    for number in range(16):
        assert (arm[shard == number] == 1).mean() == pytest.approx(0.25, abs=0.06)


def test_a_user_stays_in_an_arm_and_another_salt_assigns_independently() -> None:
    one, two = (plan_arms(config({"a": {}, "b": {}}, assignment="split", salt=salt)) for salt in ("one", "two"))
    first = assigned(one, USERS)
    assert np.array_equal(first[5000:5100], assigned(one, USERS[5000:5100]))
    both = np.bincount(2 * first + assigned(two, USERS), minlength=4) / len(USERS)
    assert both == pytest.approx([0.25] * 4, abs=0.012)


def test_a_new_arm_takes_users_only_for_itself_and_a_larger_share_only_adds_users() -> None:
    def split(**shares: float) -> np.ndarray:
        plan = plan_arms(config({name: {"share": share} for name, share in shares.items()}, assignment="split"))
        return np.array(plan.names)[assigned(plan, USERS)]

    two, three = split(a=1, b=1), split(a=1, b=1, c=1)
    assert set(three[three != two]) == {"c"}
    assert (three != two).mean() == pytest.approx(1 / 3, abs=0.015)
    ramped = split(a=1, b=3)
    assert set(ramped[ramped != two]) == {"b"}
    assert (ramped == "b").mean() == pytest.approx(0.75, abs=0.015)
    assert np.array_equal(split(b=1, a=1), two)  # the order of the arms decides nothing


def test_users_of_a_variant_are_those_of_its_arms() -> None:
    plan = plan_arms(config({"control": CONTROL, "llm": {}, "short": {"slate": {"size": 9}}}, assignment="split"))
    members = plan.members(USERS)
    llm = plan.paths[1].at("rerank")
    assert np.array_equal(plan.users_of(llm, USERS), members["llm"] | members["short"])


def test_the_plan_reads_as_text() -> None:
    text = plan_arms(config({"control": CONTROL, "llm": {"share": 3}}, assignment="split")).describe()
    assert "for control" in text
    assert "split: control 25%, llm 75%" in text


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a=b", "ü", "x" * 65])
def test_arm_names_that_cannot_be_part_of_a_path_are_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be an arm's name"):
        plan_arms(config({name: {}}))


def test_an_experiment_inside_an_arm_of_an_earlier_one_moves_no_other_user() -> None:
    arms = {"a": CONTROL, "b": {}}
    earlier = assigned(plan_arms(config(arms, assignment="split", salt="one")), USERS)
    nested = {"earlier": {"salt": "one", "shares": {"a": 1, "b": 1}, "arm": "b"}, "default_arm": "a"}
    plan = plan_arms(config(arms, assignment="split", salt="two", layer=nested))
    members, part = plan.members(USERS), plan.participants(USERS)
    assert np.array_equal(part, earlier == 1)
    assert np.all(members["a"] | part)
    assert not np.any(members["b"] & ~part)
    assert np.all(members["a"] ^ members["b"])
    assert members["b"][part].mean() == pytest.approx(0.5, abs=0.02)
    assert "all other users are in a" in plan.describe()


def test_all_users_of_a_layer_are_in_every_arm() -> None:
    nested = {"salt": "one", "high": 0.25, "default_arm": "a"}
    plan = plan_arms(config({"a": CONTROL, "b": {}}, layer=nested))
    members = plan.members(USERS)
    assert np.all(members["a"])
    assert members["b"].mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"salt": "one", "default_arm": "c"}, "there is no arm 'c'"),
        ({"salt": "one", "low": 0.6, "high": 0.4, "default_arm": "a"}, "low below high"),
        ({"salt": "two", "default_arm": "a"}, "must differ from arms.salt"),
        ({"default_arm": "a"}, "needs a salt"),
        ({"earlier": {"salt": "one", "shares": {"a": 1}, "arm": "b"}, "default_arm": "a"}, "no arm 'b' in shares"),
    ],
)
def test_an_invalid_layer_is_an_error(layer: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config({"a": {}}, salt="two", layer=layer)


def test_a_split_that_lost_users_has_a_small_p() -> None:
    assert sample_ratio_p([5020, 4980], [1, 1]) > 0.5
    assert sample_ratio_p([5000, 4700], [1, 1]) < 0.01
    assert sample_ratio_p([900, 100], [0.9, 0.1]) == pytest.approx(1)
    assert sample_ratio_p([10], [1]) == 1
