"""The JSON schema of a config, for editors."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from rayrec.config.tree import Config

_REF = "#/$defs/"
_IN_ARM = "InArm"


def json_schema() -> dict[str, Any]:
    """As pydantic has it, but for the sections of an arm, which say only what differs: no key in them is required, and
    none has a default (rayrec.config.inheritance). Lists are given whole, in arms too."""
    schema = Config.model_json_schema()
    _loosen(schema["$defs"]["Arm"]["properties"], schema["$defs"])
    return schema


def _loosen(node: Any, definitions: dict[str, Any]) -> None:
    """Below `node`, let what refers to a section refer to its twin for arms, which is made where there is none yet."""
    if isinstance(node, list):
        for each in node:
            _loosen(each, definitions)
    elif isinstance(node, dict) and node.get("type") != "array":
        name = str(node.get("$ref", "")).removeprefix(_REF)
        if name:
            node["$ref"] = _REF + name + _IN_ARM
        if name and name + _IN_ARM not in definitions:
            twin = deepcopy(definitions[name])
            twin.pop("required", None)
            for key in twin["properties"].values():
                key.pop("default", None)
            definitions[name + _IN_ARM] = twin
            _loosen(twin["properties"], definitions)
        for each in node.values():
            _loosen(each, definitions)
