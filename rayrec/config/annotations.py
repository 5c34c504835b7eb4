"""What a key takes, told in words from its annotation."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf

from rayrec.config.file_source import Column
from rayrec.config.section import Section

_PLAIN = {str: "text", bool: "`true`, `false`", int: "whole number", float: "number", types.NoneType: "`null`"}
_BOUNDS = (
    (Ge, "ge", "≥"),
    (Gt, "gt", ">"),
    (Le, "le", "≤"),
    (Lt, "lt", "<"),
    (MultipleOf, "multiple_of", "in steps of"),
)


def sections_in(annotation: Any) -> Iterator[tuple[type[Section], str]]:
    """The sections that a key holds, and what follows the key in their place: in a list `[]`, by name `.NAME`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation, ""
    for part in parts:
        for kind, suffix in sections_in(part):
            yield kind, {tuple: "[]", dict: ".NAME"}.get(origin, "") + suffix


@dataclass(frozen=True)
class TypeDescriber:
    """`links`: what a section is called."""

    links: Mapping[type[Section], str]

    def of(self, annotation: Any, bounds: Sequence[Any] = ()) -> str:
        """In a few words, e.g. `whole number ≥ 1 or null`; `bounds`: pydantic's metadata of the field."""
        origin, parts = get_origin(annotation), get_args(annotation)
        if annotation in (int, float):
            return _PLAIN[annotation] + _range(bounds)
        if origin is Annotated:
            return self.of(parts[0], bounds)
        if origin in (Union, types.UnionType):
            rest = [part for part in parts if part is not Column or str not in parts]
            told = ["column" if part is str and Column in parts else self.of(part, bounds) for part in rest]
            return " or ".join(told)
        if origin is Literal:
            return ", ".join(f"`{value}`" for value in parts)
        if origin is tuple:
            return f"list of {self.of(parts[0])}" if parts[-1] is ... else f"`[{', '.join(map(self.of, parts))}]`"
        if origin is dict:
            return f"name → {self.of(parts[1])}" if parts[1] is not Any else "mapping"
        return _PLAIN.get(annotation) or self.links[annotation]


def _range(bounds: Sequence[Any]) -> str:
    """`, 0 to 1` where both ends belong to it, else the bounds one by one."""
    told = [(sign, getattr(bound, name)) for bound in bounds for kind, name, sign in _BOUNDS if isinstance(bound, kind)]
    if [sign for sign, _ in told] == ["≥", "≤"]:
        return f", {told[0][1]:,} to {told[1][1]:,}"
    return "".join(f", {sign} {value:,}" for sign, value in told)
