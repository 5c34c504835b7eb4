"""The reference of all keys, as markdown: read out of the sections, and out of the settings classes of the methods.

A section is a heading, what its docstring says, and a table of its keys. Keys that several sections (or methods)
inherit stand once, in a table of their own.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from rayrec.config.annotations import TypeDescriber, sections_in
from rayrec.config.file_source import Column, FileSource
from rayrec.config.method_settings import documented_fields
from rayrec.config.section import Section
from rayrec.config.tree import Config

COMMAND = "python -m rayrec.config --reference > docs/config.md"
_SHARED: dict[type[Section], str] = {FileSource: "Files of rows", Column: "A part of a column"}
"""What stands once, by its heading: before the first section that has it."""
_SHORT = 56  # characters of a default that stand in its table


@dataclass(frozen=True)
class MethodFamily:
    """Methods that a key names: what `registered` holds, classes with a docstring and a `settings_class`, by name."""

    title: str
    key: str  # where the config names them
    settings: str  # where the config holds their settings
    registered: Mapping[str, type[Any]]


def reference(families: Sequence[MethodFamily]) -> str:
    """The whole of docs/config.md."""
    places: dict[type[Section], str] = {}
    for kind, place in _places(Config):
        places.setdefault(kind, place)
    words = TypeDescriber({kind: _link("section", place) for kind, place in places.items()})
    named = {family.key: _link("name", family.title) for family in families}
    parts = [_opening(families), *_table(_keys(Config, words))]
    for kind, place in places.items():
        shared = kind in _SHARED
        parts += [f"{'###' if shared or '.' in place else '##'} {place}", inspect.cleandoc(kind.__doc__ or "")]
        if issubclass(kind, FileSource) and not shared:
            parts.append(f"Beside these it has the keys of {_link('files of rows', _SHARED[FileSource])}.")
        keys = [(key, named.get(f"{place}.{key.name}") if key.takes == "text" else None) for key in _keys(kind, words)]
        parts += _table([replace(key, takes=method or key.takes) for key, method in keys])
    parts += [part for family in families for part in _family(family, words)]
    return "\n\n".join(parts) + "\n"


def _opening(families: Sequence[MethodFamily]) -> str:
    methods = "\n".join(f"- {_link(family.title, family.title)}: `{family.key}`" for family in families)
    return f"""<!-- Made by `{COMMAND}` from the descriptions in the code: edit those. -->
# Config, key by key

A config is a YAML file (`--config FILE`); examples are in `conf/`. `--set section.key=value` overrides a key,
`--print-config` prints every key with its value, `python -m rayrec.config --schema` is a JSON schema for editors. An
unknown key is an error that names the nearest known one. Where a key takes a *column*, its name is enough; for a part
of its text see {_link("a part of a column", _SHARED[Column])}.

Methods, and the settings of each:

{methods}

## All sections"""


def _places(section: type[Section], path: str = "") -> Iterator[tuple[type[Section], str]]:
    """Every section below this one and where it stands: once for each place."""
    for key, field in _own(section).items():
        for kind, suffix in sections_in(field.annotation):
            if kind is not Column:
                if issubclass(kind, FileSource):
                    yield from _SHARED.items()
                yield kind, f"{path}{key}{suffix}"
                yield from _places(kind, f"{path}{key}{suffix}.")


def _own(section: type[Section]) -> dict[str, FieldInfo]:
    """The keys that are not told with a shared parent, or are another's there."""
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
        """Whether the default stands below the table."""
        return len(self.default) > _SHORT

    @property
    def row(self) -> str:
        default = f"`{self.default}`" if self.default else ""
        default = "**required**" if self.required else "below" if self.long else default
        cells = (f"`{self.name}`", self.takes, default, " ".join(self.description.split()))
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _keys(kind: type[Section], words: TypeDescriber) -> list[_Key]:
    return [
        _Key(
            name,
            words.of(field.annotation, field.metadata),
            "" if field.is_required() else _yaml(field.default),
            field.is_required(),
            field.description or "",
        )
        for name, field in _own(kind).items()
    ]


def _settings(kind: type[Any], words: TypeDescriber) -> list[_Key]:
    """Those that the dataclass says itself, not those that it inherits."""
    hints, fields = get_type_hints(kind), {field.name: field for field in dataclasses.fields(kind)}
    return [
        _Key(name, words.of(hints[name]), _yaml(fields[name].default), False, text)
        for name, text in documented_fields(kind).items()
    ]


def _yaml(default: Any) -> str:
    """On one line; "" for a section, whose own table has the defaults."""
    if isinstance(default, Section):
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


def _family(family: MethodFamily, words: TypeDescriber) -> Iterator[str]:
    yield f"## {family.title}"
    yield f"Named by `{family.key}`; their settings stand in `{family.settings}`."
    about = (f"| `{name}` | {_first_paragraph(method)} |" for name, method in sorted(family.registered.items()))
    yield "\n".join(["| name | what it does |", "|---|---|", *about])
    owners: dict[type[Any], list[str]] = {}
    for name, method in sorted(family.registered.items()):
        for kind in method.settings_class.__mro__:
            if "__dataclass_fields__" in kind.__dict__ and documented_fields(kind):
                owners.setdefault(kind, []).append(f"`{name}`")
    for kind, names in sorted(owners.items(), key=lambda owner: -len(owner[1])):
        yield f"**Settings of {', '.join(names)}.** {_said(kind)}".strip()
        yield from _table(_settings(kind, words))


def _first_paragraph(kind: type[Any]) -> str:
    return " ".join(inspect.cleandoc(kind.__dict__.get("__doc__") or "").split("\n\n")[0].split())


def _said(kind: type[Any]) -> str:
    """The docstring of a settings class; a dataclass without one has its signature there, which says nothing here."""
    text = _first_paragraph(kind)
    return "" if text.startswith(f"{kind.__name__}(") else text


def _link(text: str, heading: str) -> str:
    """To a heading of this page, by the name that GitHub gives it."""
    return f"[{text}](#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") + ")"
