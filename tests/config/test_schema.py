"""The JSON schema, which editors check a config by, takes what the config takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from rayrec.config import Config
from rayrec.config.json_schema import json_schema

CONFIGS = sorted((Path(__file__).parents[2] / "conf").glob("*.yaml"))
FALLBACK = {"source": "popularity", "below_events": 3}


def valid(content: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(json_schema()).is_valid(content)


def config(arm: dict[str, Any], **more: Any) -> dict[str, Any]:
    content = yaml.safe_load(CONFIGS[0].read_text(encoding="utf8"))
    return content | more | {"arms": {"variants": {"control": {}, "other": arm}}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_configs_that_are_here_are_valid(path: Path) -> None:
    assert valid(yaml.safe_load(path.read_text(encoding="utf8")))


def test_an_arm_may_leave_out_what_the_top_level_says() -> None:
    content = config({"slate": {"fallback": {"below_events": 5}}}, slate={"fallback": FALLBACK})
    assert Config.model_validate(content).arms.variants["other"].slate is not None
    assert valid(content)


def test_what_the_top_level_needs_it_still_needs() -> None:
    assert not valid(config({}, slate={"fallback": {"below_events": 5}}))


@pytest.mark.parametrize(
    "slate", [{"rules": {"pinned": [{"item_id": "a"}]}}, {"polcy": "greedy"}, {"size": 0}], ids=["list", "key", "value"]
)
def test_what_an_arm_says_must_be_right(slate: dict[str, Any]) -> None:
    assert not valid(config({"slate": slate}))


def test_in_an_arm_nothing_has_a_default_of_its_own() -> None:
    definitions = json_schema()["$defs"]
    for_arms = {name: schema for name, schema in definitions.items() if name.endswith("InArm")}
    assert {"SlateInArm", "FallbackInArm", "RerankInArm", "RangeInArm"} <= for_arms.keys()
    assert [key for schema in for_arms.values() for key in schema["properties"].values() if "default" in key] == []
    assert definitions["Slate"]["properties"]["size"]["default"] == 50
