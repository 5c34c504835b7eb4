"""The JSON schema of the config, for editors: the sections and the settings of every registered method."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from rayrec.config.config import Config
from rayrec.config.registry import Registry, registries
from rayrec.config.section import MethodSettings

_REF = "#/$defs/"
_IN_ARM = "InArm"
_SECTIONS = {
    "denoise.method": "Denoise",
    "rerank.method": "Rerank",
    "blend.method": "Blend",
    "slate.policy": "Slate",
    "slate.diversity.method": "DiversitySettings",
    "tuning.data_selection": "Tuning",
    "embeddings.views.NAME.kind": "EmbeddingViewSettings",
    "embeddings.instructions.NAME.answer.kind": "Answer",
    "output.tables[].format": "TableRegistration",
}
"""The section of each key that names a method."""
_SOURCES = "retrieval.sources.NAME.method"


def json_schema() -> dict[str, Any]:
    """The schema by pydantic, extended by the settings of each method.

    The sections of an arm are copies in which no key is required and none has a default.
    """
    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    _loosen(definitions["Arm"]["properties"], definitions)
    known = registries()
    for key, section in _SECTIONS.items():
        for name in (section, section + _IN_ARM):
            if name in definitions:
                _add_methods(definitions, name, known[key])
    retrievers = known[_SOURCES]
    # Without `method`, the source's name is its method.
    named = {name: _source(definitions, retrievers, name) for name in retrievers}
    others = _source(definitions, retrievers, None)
    sources = {"type": "object", "properties": named, "additionalProperties": others}
    for name in ("Retrieval", "Retrieval" + _IN_ARM):
        definitions[name]["properties"]["sources"] |= sources
        definitions[name]["properties"]["sources"].pop("patternProperties", None)
    return schema


def _loosen(node: Any, definitions: dict[str, Any]) -> None:
    """Below `node`, refer to the arm copy of each section; make the copy if there is none."""
    if isinstance(node, list):
        for each in node:
            _loosen(each, definitions)
    elif isinstance(node, dict) and node.get("type") != "array":
        name = str(node.get("$ref", "")).removeprefix(_REF)
        if name:
            node["$ref"] = _REF + name + _IN_ARM
        if name and name + _IN_ARM not in definitions:
            for_arms = deepcopy(definitions[name])
            for_arms.pop("required", None)
            for key in for_arms["properties"].values():
                key.pop("default", None)
            definitions[name + _IN_ARM] = for_arms
            _loosen(for_arms["properties"], definitions)
        for each in node.values():
            _loosen(each, definitions)


def _add_methods(definitions: dict[str, Any], section: str, known: Registry[Any]) -> None:
    """Add the method names that the section's key accepts, and the settings of each."""
    keys, key = definitions[section]["properties"], known.key.rpartition(".")[2]
    keys[key]["enum"] = [*known.built_in, *sorted(known)]
    if "settings" not in keys:
        return
    keys["settings"] = {"type": "object", "description": keys["settings"].get("description", "")}
    cases = [
        {
            "if": {"properties": {key: {"const": name}}, "required": [key]},
            "then": {"properties": {"settings": _settings(definitions, known.settings_class(name))}},
        }
        for name in keys[key]["enum"]
    ]
    definitions[section]["allOf"] = cases


def _source(definitions: dict[str, Any], known: Registry[Any], default: str | None) -> dict[str, Any]:
    cases: list[dict[str, Any]] = [
        {
            "if": {"properties": {"method": {"const": name}}, "required": ["method"]},
            "then": _settings(definitions, known.settings_class(name)),
        }
        for name in known
    ]
    if default is not None:
        of_name = _settings(definitions, known.settings_class(default))
        cases.append({"if": {"not": {"required": ["method"]}}, "then": of_name})
    return {"type": "object", "properties": {"method": {"enum": sorted(known)}}, "allOf": cases}


def _settings(definitions: dict[str, Any], kind: type[MethodSettings]) -> dict[str, Any]:
    definitions.setdefault(kind.__name__, kind.model_json_schema())
    return {"$ref": _REF + kind.__name__}
