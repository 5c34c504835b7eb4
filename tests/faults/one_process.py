"""A whole run in one process, without Ray: the same stages in the same order, one work item after the other.

A run takes half a second, so every storage call of it can be tried. What Ray adds is tried by kills on a real cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import ray

from rayrec.ray_support import cluster, stage_runner

_NODE = {"Alive": True, "Resources": {"CPU": 1.0, "memory": float(1 << 40)}}


@dataclass
class OneProcessDataset:
    """The part of Ray Data's interface that the stage runner uses, for stages that are tasks."""

    blocks: list[pa.Table]
    steps: list[Callable[[pa.Table], pa.Table]] = field(default_factory=list)

    def map_batches(self, step: Callable[[pa.Table], pa.Table], **options: Any) -> OneProcessDataset:
        assert "fn_constructor_args" not in options, "actors need Ray"
        return OneProcessDataset(self.blocks, [*self.steps, step])

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        for block in self.blocks:
            for step in self.steps:
                block = step(block)
            yield block


@dataclass(frozen=True)
class OneProcessTask:
    work: Callable[..., None]

    def remote(self, *arguments: Any) -> None:
        stage_runner.repeating(lambda: self.work(*arguments))


def _dataset(items: Any) -> OneProcessDataset:
    return OneProcessDataset([pa.Table.from_pylist([asdict(item)]) for item in items])


def without_ray() -> ExitStack:
    """A context manager in which runs need no cluster."""
    stack = ExitStack()
    stack.enter_context(patch.object(cluster, "connect", lambda resources: nullcontext()))
    stack.enter_context(patch.object(ray, "nodes", lambda: [_NODE]))  # what stages ask before they are placed
    stack.enter_context(patch.object(ray, "is_initialized", lambda: False))  # another test's cluster is not asked
    stack.enter_context(patch.object(stage_runner, "work_item_dataset", _dataset))
    for module in [module for name, module in sys.modules.items() if name.startswith("rayrec.pipeline.")]:
        if getattr(module, "task", None) is cluster.task:
            stack.enter_context(patch.object(module, "task", lambda work, *resources: OneProcessTask(work)))
            stack.enter_context(patch.object(module, "wait_for", lambda *tasks, **_: None))
    return stack
