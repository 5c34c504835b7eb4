"""A method's free-form settings in config (`denoise.settings`, `retrieval.sources.<name>`) as its frozen dataclass."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import math
import textwrap
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_type_hints

from rayrec.errors import ConfigError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Of a method that has nothing to set."""


def read_settings(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `kind`; its defaults stand where nothing is given.

    Raises ConfigError for unknown keys (naming the nearest known one), for values of another type, for numbers that are
    not finite, and for the ValueErrors of the dataclass's own checks. `where` names the place in the config.
    """
    hints = get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    values = {}
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known settings: {', '.join(known) or 'none'}"
            raise ConfigError(f"unknown setting {key!r}", where=where, hint=hint)
        values[key] = _typed(value, hints[key], f"{where}.{key}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(str(error), where=where) from None


def documented_fields(kind: type[Any]) -> dict[str, str]:
    """What the class body of the dataclass `kind` says below each field of its own, by name; "" where it says nothing.

    Fields that it inherits are described where they stand.
    """
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, below in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            said = below.value if isinstance(below, ast.Expr) else None
            text = said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else ""
            texts[statement.target.id] = inspect.cleandoc(text)
    return texts


def require(condition: bool, what: str) -> None:
    """For the checks in a settings class: raise ValueError(what) unless the condition holds."""
    if not condition:
        raise ValueError(what)


def _typed(value: Any, hint: Any, where: str) -> Any:
    kinds = get_args(hint) or (hint,)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{value} is not a finite number", where=where)
    if type(value) is int and int not in kinds and float in kinds:
        return float(value)
    if type(value) not in kinds:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"expected {names}, got {type(value).__name__} {value!r}", where=where)
    return value
