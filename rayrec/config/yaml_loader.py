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
_MOST_VALUES = 100_000  # with every alias written out; a few lines of aliases can stand for billions
_MOST_CHARS = 4_000_000


def load(text: str, where: str) -> Any:
    """As yaml.safe_load, raising its errors. `where` names the file.

    Raises ConfigError for a duplicate key, more than 50 levels, a self-reference, an invalid date or number, or more
    than 100,000 values after all aliases are written out.
    """
    if len(text) > _MOST_CHARS:
        raise ConfigError(
            f"{len(text):,} characters are too many, allowed {_MOST_CHARS:,}",
            where=where,
            hint="give a shorter file; a config needs no more",
        )
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
        self._written_out: dict[int, tuple[int, int]] = {}  # by id of a node: values and levels, aliases written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if event.anchor in self._open:
                line = event.start_mark.line + 1
                raise _RefusedError(f"*{event.anchor} stands within what it refers to", line, "write it out")
        node = super().compose_node(parent, index)
        if node is not None:
            self._check_written_out(node)
        return node

    def _check_written_out(self, node: yaml.Node) -> None:
        """Refuse a node that is too large or too deep with all aliases written out. Its children were checked before:
        aliases share nodes, so every node is counted once."""
        if id(node) in self._written_out:
            return
        below = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = [] if isinstance(node, yaml.ScalarNode) else [self._written_out[id(child)] for child in below]
        size, depth = 1 + sum(part[0] for part in parts), 1 + max((part[1] for part in parts), default=0)
        line = node.start_mark.line + 1
        if size > _MOST_VALUES:
            raise _RefusedError(
                f"{size:,} values, with every alias written out; allowed {_MOST_VALUES:,}", line, "use fewer aliases"
            )
        if depth > _DEEPEST + 1:  # a scalar within them counts one more
            raise _RefusedError(f"more than {_DEEPEST} levels, with every alias written out", line, "use fewer aliases")
        self._written_out[id(node)] = size, depth

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        with self._within(anchor):
            return super().compose_sequence_node(anchor)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked before construction: `<<` would merge keys into the mapping.
        with self._within(anchor):
            node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                named, line = key.value, key.start_mark.line + 1
                if named in lines:
                    raise _RefusedError(
                        f"the key {key.value!r} stands twice in one mapping: in line {lines[named]} and in line {line}",
                        line,
                        "write it once, with all that belongs to it",
                    )
                lines[named] = line
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Keys are text as it stands: an arm called 1, an event `no` or a day, which YAML would read as other types."""
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)

    @contextmanager
    def _within(self, anchor: str | None) -> Iterator[None]:
        if len(self._open) == _DEEPEST:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise _RefusedError(f"more than {_DEEPEST} levels, one within the other", line, "nothing needs so many")
        self._open.append(anchor)
        yield
        self._open.pop()
