"""The base classes of the config: `Section`, and `MethodSettings` for the settings of a method."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from rayrec.storage_url import checkpoint_problem, url_problem


def _storage_url(url: str) -> str:
    if (problem := url_problem(url)) is not None:
        raise ValueError(f"{problem.what}; {problem.hint}")
    return url


def _checkpoint(url: str) -> str:
    if (problem := checkpoint_problem(url)) is not None:
        raise ValueError(f"{problem.what}; {problem.hint}")
    return url


StorageUrl = Annotated[str, AfterValidator(_storage_url)]  # a path or URL, without credentials
Checkpoint = Annotated[str, AfterValidator(_checkpoint)]  # the same, or hf://organisation/name@revision


class Section(BaseModel):
    """A frozen part of the config; an unknown key is an error that names the nearest known one. Attribute docstrings
    describe the keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        """Name the nearest known key, which `extra="forbid"` alone does not."""
        unknown = given.keys() - cls.model_fields.keys() if isinstance(given, Mapping) else ()
        if unknown:
            problems = [_unknown_key(key, given[key], list(cls.model_fields)) for key in sorted(unknown, key=str)]
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return given


class MethodSettings(Section):
    """Base class for the settings class in a method's file.

    Values are not converted ("5" is no number), and numbers are finite.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class NoSettings(MethodSettings):
    """No settings."""


def explain(error: ValidationError) -> str:
    """The errors, one a line: the full key and the message."""
    lines = []
    for problem in error.errors():
        message = problem["msg"].removeprefix("Value error, ")
        key = ".".join(str(part) for part in problem["loc"])
        lines.append(f"{key}: {message}" if key else message)
    return "\n".join(lines)


def _unknown_key(key: Any, value: Any, known: list[str]) -> InitErrorDetails:
    near = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known) or 'none'}"
    problem = PydanticCustomError("unknown_key", "unknown key; {hint}", {"hint": hint})
    return InitErrorDetails(type=problem, loc=(str(key),), input=value)
