"""Regular expressions of the config: RE2, which takes linear time for any pattern and text."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

GROUP = "value"


def pattern_error(pattern: str, *, one_group: bool = False) -> str | None:
    """Why the pattern cannot be used, or None. With `one_group` it must have exactly one capturing group."""
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
        if one_group:
            extract(pa.array([""]), pattern)
    except (pa.ArrowException, ValueError) as error:
        return f"{pattern!r} is not a usable RE2 pattern: {str(error).removeprefix('Invalid regular expression: ')}"
    return None


def extract(values: pa.Array, pattern: str) -> pa.Array:
    """The text matched by the pattern's one group in each string; null where the pattern does not match."""
    found = pc.extract_regex(values, named(pattern))
    if found.type.num_fields != 1:
        raise ValueError(f"it has {found.type.num_fields} groups, not one; write the others as (?:...)")
    return pc.if_else(found.is_valid(), found.field(0), pa.scalar(None, pa.string()))


def matches(values: pa.Array, pattern: str) -> pa.Array:
    """Whether the pattern is found in each string, bool."""
    return pc.match_substring_regex(values, pattern)


def named(pattern: str) -> str:
    """The pattern with its capturing groups named, as Arrow's extraction requires."""
    out: list[str] = []
    groups, in_class, at = 0, False, 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            out.append(pattern[at : at + 2])
            at += 2
            continue
        if char == "[" and not in_class:
            in_class = True
            first = at + 2 if pattern[at + 1 : at + 2] == "^" else at + 1
            if pattern[first : first + 1] == "]":  # a bracket right after the opening one is a member of the class
                char, at = pattern[at : first + 1], first
        elif char == "]":
            in_class = False
        elif char == "(" and not in_class and pattern[at + 1 : at + 2] != "?":
            char = f"(?P<{GROUP}{groups}>"
            groups += 1
        out.append(char)
        at += 1
    return "".join(out)
