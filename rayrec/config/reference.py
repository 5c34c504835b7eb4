"""The reference of all config keys as markdown, from the sections and the settings of the registered methods.

A section is a heading, its docstring, and a table of its keys. Keys inherited by several sections (or methods) have one
shared table.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from rayrec.config.config import Config
from rayrec.config.file_source import Column, FileSource
from rayrec.config.registry import Registry, registries
from rayrec.config.section import MethodSettings, Section

COMMAND = "python -m rayrec.config --reference > docs/config.md"
TITLES = {
    "denoise.method": "Denoising methods",
    "retrieval.sources.NAME.method": "Retrievers",
    "rerank.method": "Text rerankers",
    "blend.method": "Blending methods",
    "slate.policy": "Slate policies",
    "slate.diversity.method": "Diversification methods",
    "tuning.data_selection": "Training-data selection",
    "embeddings.views.NAME.kind": "Views of a user",
    "embeddings.instructions.NAME.answer.kind": "Answers to an instruction",
    "output.tables[].format": "Table formats",
}
"""The heading of each registry's methods."""
_SHARED: dict[type[Section], str] = {FileSource: "Files of rows", Column: "A part of a column"}
"""Sections described once, with their headings, before the first section that uses them."""
_SHORT = 56  # longest default, in characters, shown in the table
_PLAIN = {str: "text", bool: "`true`, `false`", int: "whole number", float: "number", types.NoneType: "`null`"}
_BOUNDS = (
    (Ge, "ge", "≥"),
    (Gt, "gt", ">"),
    (Le, "le", "≤"),
    (Lt, "lt", "<"),
    (MultipleOf, "multiple_of", "in steps of"),
)


def reference() -> str:
    """The content of docs/config.md."""
    places: dict[type[Section], str] = {}
    for kind, place in _places(Config):
        places.setdefault(kind, place)
    describer = TypeDescriber({kind: _link("section", place) for kind, place in places.items()})
    methods = {key: _link("name", title) for key, title in TITLES.items()}
    parts = [_opening(), *_table(_keys(Config, describer))]
    for kind, place in places.items():
        shared = kind in _SHARED
        parts += [f"{'###' if shared or '.' in place else '##'} {place}", inspect.cleandoc(kind.__doc__ or "")]
        if issubclass(kind, FileSource) and not shared:
            parts.append(f"Beside these it has the keys of {_link('files of rows', _SHARED[FileSource])}.")
        keys = _keys(kind, describer)
        parts += _table([replace(key, takes=methods.get(f"{place}.{key.name}", key.takes)) for key in keys])
    for key, known in registries().items():
        parts += _methods(TITLES[key], known, describer)
    return "\n\n".join(parts) + "\n"


def sections_in(annotation: Any) -> Iterator[tuple[type[Section], str]]:
    """The sections that a key holds, each with the suffix of its path: `[]` in a list, `.NAME` by name."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Section) and annotation is not MethodSettings:
        yield annotation, ""
    for part in parts:
        for kind, suffix in sections_in(part):
            yield kind, {tuple: "[]", dict: ".NAME"}.get(origin, "") + suffix


@dataclass(frozen=True)
class TypeDescriber:
    """Describes in words what a key accepts; `links` has a markdown link for each section."""

    links: Mapping[type[Section], str]

    def describe(self, annotation: Any, bounds: Sequence[Any] = ()) -> str:
        """The description, e.g. `whole number, ≥ 1 or null`; `bounds` is pydantic's metadata of the field."""
        origin, parts = get_origin(annotation), get_args(annotation)
        if annotation in (int, float):
            return _PLAIN[annotation] + _range(bounds)
        if annotation is MethodSettings:
            return "mapping"
        if origin is Annotated:
            return self.describe(parts[0], bounds)
        if origin in (Union, types.UnionType):
            rest = [part for part in parts if part is not Column or str not in parts]
            words = ["column" if part is str and Column in parts else self.describe(part, bounds) for part in rest]
            return " or ".join(words)
        if origin is Literal:
            return ", ".join(f"`{value}`" for value in parts)
        if origin is tuple:
            of = [self.describe(part) for part in parts if part is not ...]
            return f"list of {of[0]}" if parts[-1] is ... else f"`[{', '.join(of)}]`"
        if origin is dict:
            return f"name → {self.describe(parts[1])}" if parts[1] is not Any else "mapping"
        return _PLAIN.get(annotation) or self.links[annotation]


def _range(bounds: Sequence[Any]) -> str:
    """The bounds in words: `, 0 to 1` if both ends are inclusive, else one by one."""
    found = [
        (sign, getattr(bound, name)) for bound in bounds for kind, name, sign in _BOUNDS if isinstance(bound, kind)
    ]
    if [sign for sign, _ in found] == ["≥", "≤"]:
        return f", {found[0][1]:,} to {found[1][1]:,}"
    return "".join(f", {sign} {value:,}" for sign, value in found)


def _opening() -> str:
    methods = "\n".join(f"- {_link(title, title)}: `{key}`" for key, title in TITLES.items())
    return f"""<!-- Made by `{COMMAND}` from the descriptions in the code: edit those. -->
# Config, key by key

A config is a YAML file (`--config FILE`); examples are in `conf/`. `--set section.key=value` overrides a key,
`--print-config` prints every key with its value, `python -m rayrec.config --schema` prints a JSON schema for editors.
An unknown key is an error that names the nearest known one. Where a key takes a *column*, its name is enough; for a
part of its text see {_link("a part of a column", _SHARED[Column])}.

Methods, and the settings of each:

{methods}

## All sections"""


def _places(section: type[Section], path: str = "") -> Iterator[tuple[type[Section], str]]:
    """Every section below this one with its path, once for each place."""
    for key, field in _own(section).items():
        for kind, suffix in sections_in(field.annotation):
            if kind is not Column:
                if issubclass(kind, FileSource):
                    yield from _SHARED.items()
                yield kind, f"{path}{key}{suffix}"
                yield from _places(kind, f"{path}{key}{suffix}.")


def _own(section: type[Section]) -> dict[str, FieldInfo]:
    """The section's keys without those of a shared parent."""
    parents = [parent for parent in _SHARED if issubclass(section, parent) and parent is not section]
    shared = {key for parent in parents for key in parent.model_fields if key not in section.__annotations__}
    return {key: field for key, field in section.model_fields.items() if key not in shared}


@dataclass(frozen=True)
class _Key:
    """A row of a table."""

    name: str
    takes: str
    default: str  # in YAML
    required: bool
    description: str

    @property
    def long(self) -> bool:
        """Whether the default is shown below the table."""
        return len(self.default) > _SHORT

    @property
    def row(self) -> str:
        default = f"`{self.default}`" if self.default else ""
        default = "**required**" if self.required else "below" if self.long else default
        cells = (f"`{self.name}`", self.takes, default, " ".join(self.description.split()))
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _keys(kind: type[Section], describer: TypeDescriber) -> list[_Key]:
    return [_key(name, field, describer) for name, field in _own(kind).items()]


def _key(name: str, field: FieldInfo, describer: TypeDescriber) -> _Key:
    takes = describer.describe(field.annotation, field.metadata)
    return _Key(name, takes, _yaml(field.default), field.is_required(), field.description or "")


def _yaml(default: Any) -> str:
    """The default on one line; "" for a section, which has its own table."""
    if isinstance(default, Section) or default is PydanticUndefined:
        return ""
    plain = to_jsonable_python(default)
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False).split("\n")[0]


def _table(keys: Sequence[_Key]) -> Iterator[str]:
    if keys:
        yield "\n".join(["| key | takes | default | meaning |", "|---|---|---|---|", *(key.row for key in keys)])
    for key in keys:
        if key.long:
            block = yaml.safe_dump({key.name: yaml.safe_load(key.default)}, default_flow_style=None, sort_keys=False)
            yield f"The default of `{key.name}`:\n\n```yaml\n{block}```"


def _methods(title: str, known: Registry[Any], describer: TypeDescriber) -> Iterator[str]:
    """The methods of a registry and their settings; settings that several methods inherit are described once."""
    yield f"## {title}"
    place = known.key.rpartition(".")[0]
    place = place if place.endswith("NAME") else f"{place}.settings"
    has_settings = any(known.settings_class(name).model_fields for name in known)
    yield f"Named by `{known.key}`" + (f"; their settings stand in `{place}`." if has_settings else ".")
    about = (f"| `{name}` | {_first_paragraph(method)} |" for name, method in sorted(known.items()))
    yield "\n".join(["| name | what it does |", "|---|---|", *about])
    owners: dict[type[MethodSettings], list[str]] = {}
    for name in sorted(known):
        for kind in known.settings_class(name).__mro__:
            if issubclass(kind, MethodSettings) and own_settings(kind) and kind not in describer.links:
                owners.setdefault(kind, []).append(f"`{name}`")
    for kind, names in sorted(owners.items(), key=lambda owner: -len(owner[1])):
        yield f"**Settings of {', '.join(names)}.** {_first_paragraph(kind)}".strip()
        yield from _table([_key(name, kind.model_fields[name], describer) for name in own_settings(kind)])


def own_settings(kind: type[MethodSettings]) -> list[str]:
    """The settings that the class itself declares, without inherited ones."""
    return [name for name in inspect.get_annotations(kind) if name in kind.model_fields]


def _first_paragraph(method: Any) -> str:
    """The first paragraph of the own, not inherited, docstring."""
    text = method.__dict__.get("__doc__") if isinstance(method, type) else method.__doc__
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())


def _link(text: str, heading: str) -> str:
    """A markdown link to a heading of this page, by GitHub's anchor."""
    return f"[{text}](#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") + ")"
