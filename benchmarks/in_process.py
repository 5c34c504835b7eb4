"""The daily run in one process without Ray: the same stages on the same work items, one after another.

For counting what a run asks of its store, and for CPU time that no scheduler has a part in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from rayrec.numerics.collectives import Worker
from rayrec.numerics.threads import thread_limit
from rayrec.pipeline import (
    blender_fitting,
    daily_run,
    interaction_ingest,
    item_model_fitting,
    llm_tuning,
    scoring,
    text_adapter_tuning,
)

_STAGES = (interaction_ingest, blender_fitting, daily_run, llm_tuning, scoring)
_TASKS = (item_model_fitting, blender_fitting)
_TUNINGS = (llm_tuning, text_adapter_tuning)

Flow = tuple[tuple[Callable[[Any], Any], Any], ...]  # stages with their specs


@contextmanager
def without_ray() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(thread_limit(1))
        stack.enter_context(patch.object(daily_run, "check_placement", lambda context: None))
        stack.enter_context(patch.object(scoring, "_engine_pool", lambda spec: None))
        for module in _STAGES:
            stack.enter_context(patch.object(module, "append_stage", _append))
            if hasattr(module, "run_pending"):
                stack.enter_context(patch.object(module, "run_pending", _run))
        for module in _TASKS:
            stack.enter_context(patch.object(module, "task", lambda work, *_, **__: SimpleNamespace(remote=work)))
            stack.enter_context(patch.object(module, "wait_for", lambda *_, **__: None))
        for module in _TUNINGS:
            stack.enter_context(patch.object(module, "training_workers", lambda *_: None))
            stack.enter_context(patch.object(module, "run", lambda work, *_: work(Worker(), _tell)))
        stack.enter_context(patch.object(llm_tuning, "_tunable", lambda context, data, models, missing: models))
        yield


def _tell(row: Mapping[str, float], line: str) -> None:
    print(line, file=sys.stderr)


def _append(flow: Flow, stage: Callable[[Any], Any], spec: Any, **_: Any) -> Flow:
    return (*flow, (stage, spec))


def _run(
    pending: Sequence[Any],
    flow: Callable[[Any], Any],
    advance: Callable[[int], None] = lambda done: None,
    count: Callable[[Any], int] = lambda table: 1,
    name: str = "stage",
) -> None:
    built = [stage(spec) for stage, spec in flow(())] if pending else []
    for item in pending:
        table = None
        for stage in built:
            if table is not None and not table.num_rows:
                break  # as in Ray Data
            table = stage(item, table)
        advance(count(table))
