"""Differences between two runs of one date, as text: `slate.size: 50 -> 20`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rayrec.publishing.records import InputRecord, RunRecord

_MAX_LINES = 10  # maximum number of lines of each kind
_MAX_VALUE = 80  # characters
_ABSENT = "(not set)"


def run_differences(published: RunRecord, now: RunRecord) -> list[str]:
    """Lines `key: published -> now` for settings, inputs and code; [] for equal runs."""
    lines = _shortened(
        [f"config  {line}" for line in _settings(published.fingerprinted_settings, now.fingerprinted_settings)]
    )
    if published.fingerprint != now.fingerprint and not lines:
        lines = _shortened(
            [f"config  {line}" for line in _orders(published.fingerprinted_settings, now.fingerprinted_settings)]
        )
        lines = lines or [f"config  fingerprint: {published.fingerprint} -> {now.fingerprint}"]
    lines += _shortened([f"input   {line}" for line in _inputs(published.inputs, now.inputs)])
    if published.code_version != now.code_version:
        lines.append(f"code    {published.code_version} -> {now.code_version}")
    return lines


def _settings(published: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    before, after = dict(_flat(published)), dict(_flat(now))
    for key in sorted({*before, *after}):
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if old != new:
            yield f"{key}: {_brief(old)} -> {_brief(new)}"


def _orders(published: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Mappings with the same keys in a different order."""
    if list(published) != list(now):
        yield f"order of {prefix.rstrip('.')}: {_brief(', '.join(published))} -> {_brief(', '.join(now))}"
    for key, value in published.items():
        if isinstance(value, Mapping) and isinstance(now.get(key), Mapping):
            yield from _orders(value, now[key], f"{prefix}{key}.")


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            # JSON turns tuples into lists.
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."


def _inputs(published: tuple[InputRecord, ...], now: tuple[InputRecord, ...]) -> Iterator[str]:
    before, after = {file.path: file for file in published}, {file.path: file for file in now}
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old is None:
            yield f"{path}: added"
        elif new is None:
            yield f"{path}: removed"
        elif old.size != new.size:
            yield f"{path}: {old.size} -> {new.size} bytes"
        elif old.version != new.version:
            yield f"{path}: rewritten (version {old.version} -> {new.version})"


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - _MAX_LINES
    return lines if more <= 0 else [*lines[:_MAX_LINES], f"        ... and {more} more"]
