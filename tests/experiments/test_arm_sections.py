"""Arm sections: inheritance from the top level, and keys of other methods."""

from __future__ import annotations

from typing import Any

import pytest

from rayrec.config import Arm, Arms, Config, Denoise, Rerank, Retrieval, Slate
from rayrec.errors import ConfigError
from rayrec.experiments.arm_plan import plan_arms

DATA = {"interactions": {"path": "x"}, "items": {"from_interactions": True}}


def config(top: dict[str, Any], **variants: Any) -> Config:
    return Config.model_validate({"name": "shop", "data": DATA, "arms": {"variants": variants}, **top})


def one(section: str, top: dict[str, Any], given: dict[str, Any]) -> Any:
    """The arm's effective section as plain data."""
    plan = plan_arms(config({section: top}, arm={section: given}))
    stage = {"retrieval": "retrieve"}.get(section, section)
    return plan.paths[0].at(stage).settings.model_dump()  # type: ignore[arg-type]


RULES = {
    "blocked": ["bad", "worse"],
    "pinned": [{"item_id": "mine", "rank": 2}],
    "max_per_category": 3,
    "ranges": {"age": {"max": 12, "missing": "keep"}, "price": {"min": 1}},
}


def test_an_exploring_arm_inherits_the_slate_size_and_rules() -> None:
    top = {"size": 20, "rules": RULES, "diversity": {"method": "mmr"}, "fallback": {"source": "popularity"}}
    explores = one("slate", top, {"policy": "epsilon_greedy"})
    assert explores == Slate.model_validate({**top, "policy": "epsilon_greedy"}).model_dump()


def test_rules_are_merged_by_rule_and_a_list_is_replaced_whole() -> None:
    found = one("slate", {"rules": RULES}, {"rules": {"blocked": ["other"], "ranges": {"price": {"max": 9}}}})["rules"]
    assert found["blocked"] == ("other",)
    assert (found["pinned"][0]["item_id"], found["max_per_category"]) == ("mine", 3)
    assert found["ranges"]["age"] == {"min": None, "max": 12, "missing": "keep"}
    assert found["ranges"]["price"] == {"min": 1, "max": 9, "missing": "drop"}


def test_a_value_of_an_arm_is_used_even_where_it_is_the_default() -> None:
    top = {"size": 20, "rules": RULES, "fallback": {"source": "popularity"}}
    given = {"size": 50, "rules": {"blocked": [], "max_per_category": None}, "fallback": None}
    found = one("slate", top, given)
    assert (found["size"], found["fallback"]) == (50, None)
    assert (found["rules"]["blocked"], found["rules"]["max_per_category"]) == ((), None)


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({"settings": {"dtype": "float64"}}, {"negative_influence_share": 0.0, "dtype": "float64"}),
        (
            {"method": "influence", "settings": {"dtype": "float64"}},
            {"negative_influence_share": 0.0, "dtype": "float64"},
        ),
        ({"settings": {"negative_influence_share": 0.2}}, {"negative_influence_share": 0.2}),
        ({"method": "none"}, {}),
        ({"method": "loss", "settings": {"tau": 0.2}}, {"tau": 0.2}),
    ],
)
def test_settings_are_inherited_with_the_method_only(given: dict[str, Any], settings: dict[str, Any]) -> None:
    expected = Denoise(method=given.get("method", "influence"), settings=settings)
    top = {"method": "influence", "settings": {"negative_influence_share": 0.0}}
    assert one("denoise", top, given) == expected.model_dump()


def test_settings_of_policies_and_diversifiers_are_inherited_with_their_method() -> None:
    top = {"policy": "plackett_luce", "settings": {"temperature": 0.3}}
    top |= {"diversity": {"method": "mmr", "depth": 40, "settings": {"by": "factors"}}}
    assert one("slate", top, {"policy": "epsilon_greedy"})["settings"] == {"epsilon": 0.1}
    other = one("slate", top, {"diversity": {"method": "calibrated"}})
    assert other["settings"] == {"temperature": 0.3}
    assert other["diversity"] == {"method": "calibrated", "depth": 40, "settings": {"calibration": 0.5}}


def test_sources_are_replaced_whole_and_the_other_keys_are_inherited() -> None:
    top = {"candidates_per_source": 7, "exclude_seen": False}
    found = one("retrieval", top, {"sources": {"popularity": {}}})
    assert found == Retrieval(sources={"popularity": {}}, **top).model_dump()
    assert one("retrieval", {"sources": {"ease": {}}}, {"candidates_per_source": 7})["sources"].keys() == {"ease"}


TEXT_RERANK = {
    "method": "pointwise",
    "checkpoint": "/models/a",
    "adapter": "/lora/a",
    "settings": {"events": 9},
    "max_promotion": 3,
}


def test_a_method_without_a_checkpoint_does_not_inherit_one() -> None:
    for method in ("none", "item_token"):
        found = one("rerank", TEXT_RERANK, {"method": method})
        assert found == Rerank(method=method, max_promotion=3).model_dump()


def test_an_arm_inherits_the_checkpoint_unless_it_has_its_own() -> None:
    label = one("rerank", TEXT_RERANK, {"method": "listwise"})
    assert (label["checkpoint"], label["adapter"], label["settings"]["events"]) == ("/models/a", "/lora/a", 20)
    other = one("rerank", TEXT_RERANK, {"checkpoint": "/models/b"})
    assert (other["checkpoint"], other["adapter"], other["settings"]["events"]) == ("/models/b", None, 9)


def test_a_section_is_validated_together_with_the_top_level() -> None:
    pinned = {"rules": {"pinned": [{"item_id": "mine", "rank": 60}]}}
    assert one("slate", {"size": 100}, pinned)["size"] == 100
    with pytest.raises(ValueError, match=r"arms\.variants\.arm\.slate\n.*pinned beyond the slate's size, 20"):
        one("slate", {"size": 100, **pinned}, {"size": 20})
    with pytest.raises(ValueError, match=r"arms\.variants\.arm\.slate\.rules\.bloked\n"):
        one("slate", {}, {"rules": {"bloked": []}})


def test_arms_that_repeat_the_top_level_share_its_variants() -> None:
    top = {"slate": {"size": 20, "rules": RULES}, "rerank": TEXT_RERANK}
    plan = plan_arms(config(top, plain={}, repeats={"slate": {"size": 20}, "rerank": {"method": "pointwise"}}))
    assert plan.paths[0].variants == plan.paths[1].variants


def test_a_config_is_the_same_after_a_dump() -> None:
    top = {"slate": {"size": 20, "rules": RULES, "settings": {}}, "rerank": TEXT_RERANK}
    arms = {
        "none": {"rerank": {"method": "none"}},
        "listwise": {"rerank": {"method": "listwise"}, "slate": {"size": 9}},
    }
    known = config(top, **arms)
    assert Config.model_validate(known.model_dump(mode="json")) == known


def test_arms_made_in_python_have_only_the_given_keys() -> None:
    top = {"name": "shop", "data": DATA, "slate": {"size": 20, "rules": RULES}}
    made = Config.model_validate({**top, "arms": Arms(variants={"arm": Arm(slate=Slate(policy="epsilon_greedy"))})})
    assert made.arms.variants["arm"].slate == Slate.model_validate({**top["slate"], "policy": "epsilon_greedy"})


def test_errors_at_the_top_level_are_not_repeated_for_every_arm() -> None:
    with pytest.raises(ValueError, match="1 validation error") as caught:
        config({"rerank": {"method": "nothing"}}, arm={"rerank": {"method": "listwise"}})
    assert "rerank.method" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"engine": "transformers", "dtype": "float32"}, ("engine and dtype", "'arm'", "item_token", "top-level")),
        ({"method": "item_token", "dtype": "float32"}, ("rerank.dtype", "top-level rerank.engine and rerank.dtype")),
        ({"depth": 5}, ("rerank.depth", "item_token", "leave it out")),
        ({"fields": []}, ("rerank.fields",)),
        ({"method": "none", "max_promotion": 3}, ("rerank.max_promotion", "rerank.method none")),
    ],
)
def test_keys_that_the_method_of_an_arm_ignores_are_an_error(given: dict[str, Any], says: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        one("rerank", {}, given)
    assert caught.value.where == "arms.variants.arm.rerank"
    for words in says:
        assert words in str(caught.value)


def test_keys_that_repeat_the_top_level_are_no_error() -> None:
    top = {**TEXT_RERANK, "engine": "transformers", "dtype": "float32", "depth": 5, "fields": []}
    repeated = {"method": "item_token", **{key: top[key] for key in ("engine", "dtype", "depth", "fields")}}
    assert one("rerank", top, repeated) == one("rerank", top, {"method": "item_token"})
    assert one("rerank", top, {"method": "listwise", "engine": "vllm", "depth": 9})["depth"] == 9
