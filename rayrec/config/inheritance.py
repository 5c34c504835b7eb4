"""Inheritance of an arm's sections from the top-level sections of the same names; see `Arm` for the rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from rayrec.config.rerank_section import WITHOUT_CHECKPOINT, Rerank

_SECTIONS = ("denoise", "retrieval", "rerank", "slate")  # sections that an arm may override
_WHOLE = ("sources",)
_BELONGS = (("method", "settings"), ("policy", "settings"), ("checkpoint", "adapter"))


def inherit_from_top_level(arms: Any, top: Mapping[str, Any]) -> Any:
    """Return `arms` with the sections of its variants merged over those of `top`, which are validated.

    Anything that is no mapping is returned unchanged, for the validation to refuse.
    """
    given = _plain(arms)
    if not isinstance(given, Mapping) or not isinstance(variants := given.get("variants"), Mapping):
        return given
    return {**given, "variants": {name: _arm(_plain(arm), top) for name, arm in variants.items()}}


def _arm(given: Any, top: Mapping[str, Any]) -> Any:
    if not isinstance(given, Mapping):
        return given
    # A section missing from `top` was invalid: the arm's cannot be validated until that is corrected.
    filled = {key: _over(top[key], _plain(given[key])) if key in top else None for key in _SECTIONS if key in given}
    return {**given, **filled}


def _over(below: Any, given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    if isinstance(below, BaseModel):
        own = {name: value for name, value in below if name not in _of_another(below, given)}
        return own | {name: value if name in _WHOLE else _over(own.get(name), value) for name, value in given.items()}
    if isinstance(below, Mapping):
        return {**below, **{key: _over(below.get(key), value) for key, value in given.items()}}
    return given


def _of_another(below: BaseModel, given: Mapping[str, Any]) -> set[str]:
    """Keys that are not inherited, because they belong to another method or checkpoint."""
    parts = {part for key, part in _BELONGS if key in given and given[key] != getattr(below, key, given[key])}
    if isinstance(below, Rerank) and given.get("method") in WITHOUT_CHECKPOINT:
        parts |= {"checkpoint", "adapter"}
    return parts


def _plain(given: Any) -> Any:
    """A model as the keys that were set explicitly."""
    return given.model_dump(exclude_unset=True) if isinstance(given, BaseModel) else given
