"""The JSON schema accepts what the config accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from rayrec.config import Config
from rayrec.config.json_schema import json_schema

_REPOSITORY = Path(__file__).parents[2]
CONFIGS = [_REPOSITORY / "jobs" / "demo.yaml", *sorted((_REPOSITORY / "conf").glob("*.yaml"))]
FALLBACK = {"source": "popularity", "below_events": 3}


def valid(content: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(json_schema()).is_valid(content)


def config(arm: dict[str, Any], **more: Any) -> dict[str, Any]:
    content = yaml.safe_load(CONFIGS[0].read_text(encoding="utf8"))
    return content | more | {"arms": {"variants": {"control": {}, "other": arm}}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_are_valid(path: Path) -> None:
    assert valid(yaml.safe_load(path.read_text(encoding="utf8")))


def test_arms_may_omit_inherited_keys() -> None:
    content = config({"slate": {"fallback": {"below_events": 5}}}, slate={"fallback": FALLBACK})
    assert Config.model_validate(content).arms.variants["other"].slate is not None
    assert valid(content)


def test_required_keys_are_required_at_the_top_level() -> None:
    assert not valid(config({}, slate={"fallback": {"below_events": 5}}))


@pytest.mark.parametrize(
    "slate", [{"rules": {"pinned": [{"item_id": "a"}]}}, {"polcy": "greedy"}, {"size": 0}], ids=["list", "key", "value"]
)
def test_invalid_values_in_arms_are_refused(slate: dict[str, Any]) -> None:
    assert not valid(config({"slate": slate}))


def test_arm_sections_have_no_defaults() -> None:
    definitions = json_schema()["$defs"]
    for_arms = {name: schema for name, schema in definitions.items() if name.endswith("InArm")}
    assert {"SlateInArm", "FallbackInArm", "RerankInArm", "RangeInArm"} <= for_arms.keys()
    assert [key for schema in for_arms.values() for key in schema["properties"].values() if "default" in key] == []
    assert definitions["Slate"]["properties"]["size"]["default"] == 50
