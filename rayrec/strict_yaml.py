"""YAML that people write: plain values only, and no key twice in a mapping, where the first would be lost unseen."""

from __future__ import annotations

from typing import Any

import yaml

from rayrec.errors import ConfigError


def load(text: str, where: str) -> Any:
    """As yaml.safe_load, raising its errors; ConfigError for a key that stands twice. `where` names the file."""
    try:
        return yaml.load(text, _Loader)
    except _RepeatedKeyError as error:
        raise ConfigError(
            f"the key {error.key!r} stands twice in one mapping: in line {error.first} and in line {error.again}",
            where=f"{where}, line {error.again}",
            do="write it once, with all that belongs to it",
        ) from None


class _RepeatedKeyError(Exception):
    def __init__(self, key: str, first: int, again: int) -> None:
        super().__init__(key)
        self.key, self.first, self.again = key, first, again


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # As it is written: once it is constructed, what `<<` merges in stands among the keys.
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                named, line = (key.tag, key.value), key.start_mark.line + 1
                if named in lines:
                    raise _RepeatedKeyError(key.value, lines[named], line)
                lines[named] = line
        return node
