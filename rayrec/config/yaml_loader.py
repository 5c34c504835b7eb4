"""A YAML loader for plain values that refuses duplicate keys.

Not ruamel.yaml: it accepts a duplicate key beside a merge key (`<<`), reads 7 of 48 common scalars differently as YAML
1.1, and has no bound on depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from rayrec.errors import ConfigError

_DEEPEST = 50  # levels of nested mappings and lists


def load(text: str, where: str) -> Any:
    """As yaml.safe_load, raising its errors. `where` names the file.

    Raises ConfigError for a duplicate key, more than 50 levels, a self-reference, or an invalid date or number.
    """
    try:
        return yaml.load(text, _Loader)
    except _RefusedError as error:
        raise ConfigError(error.what, where=f"{where}, line {error.line}", hint=error.hint) from None
    except ValueError as error:
        raise ConfigError(
            f"not a value: {error}", where=where, hint="put it in quotes if it is meant as text"
        ) from None


class _RefusedError(Exception):
    def __init__(self, what: str, line: int, do: str) -> None:
        super().__init__(what)
        self.what, self.line, self.hint = what, line, do


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open: list[str | None] = []  # the anchors of the enclosing mappings and lists

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if event.anchor in self._open:
                line = event.start_mark.line + 1
                raise _RefusedError(f"*{event.anchor} stands within what it refers to", line, "write it out")
        return super().compose_node(parent, index)

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        with self._within(anchor):
            return super().compose_sequence_node(anchor)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked before construction: `<<` would merge keys into the mapping.
        with self._within(anchor):
            node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                named, line = (key.tag, key.value), key.start_mark.line + 1
                if named in lines:
                    raise _RefusedError(
                        f"the key {key.value!r} stands twice in one mapping: in line {lines[named]} and in line {line}",
                        line,
                        "write it once, with all that belongs to it",
                    )
                lines[named] = line
        return node

    @contextmanager
    def _within(self, anchor: str | None) -> Iterator[None]:
        if len(self._open) == _DEEPEST:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise _RefusedError(f"more than {_DEEPEST} levels, one within the other", line, "nothing needs so many")
        self._open.append(anchor)
        yield
        self._open.pop()
