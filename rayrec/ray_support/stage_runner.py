"""Runs stages on Ray Data: one block holds one work item from the first stage to the last.

Blocks stay whole because block splitting is switched off for these datasets and every stage takes a block as one batch.
Each stage checks this and raises otherwise. The stages themselves do not depend on Ray.

A stage whose storage fails in a way that passes is run again for its work item, a few times, where it runs
(rayrec.storage.retries). The number of repeats travels with the block to the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.exceptions import ExecutionTimeoutError

from rayrec.errors import RayrecError, TransientStorageError
from rayrec.numerics.threads import thread_limit
from rayrec.ray_support import ray_metrics, stall_watch
from rayrec.ray_support.memory_request import placeable_memory
from rayrec.storage import home_folder, retries

T = TypeVar("T")

_ERROR, _PACKED = "rayrec_error", "rayrec_block"
_WORK_ITEMS = "rayrec_work_items"  # key of a dataset's context
_REPEATS = {retries.CALLS: "rayrec_repeated_calls", retries.WORK_ITEMS: "rayrec_repeated_work"}  # kind -> column


@dataclass(frozen=True)
class WorkItem:
    """A shard as of a cutoff. Every row of a stage's table has both as columns."""

    cutoff: int  # microseconds UTC
    shard: int


@dataclass(frozen=True)
class SplitItem:
    """A part of the input files."""

    split: int


class Stage(Protocol):
    """One step for one work item: takes the item and its table, returns a table.

    Built once per process from a hashable spec, with all heavy loading. The first stage's table has no columns.
    """

    def __call__(self, item: Any, table: pa.Table, /) -> pa.Table: ...


@dataclass(frozen=True)
class ActorPoolSpec:
    """A pool of actors, each of which retains what its stage loaded. `size` is a number or (min, max).

    There is at most one actor for each work item. Of a pool with GPUs `max` actors are asked for at once, and none is
    waited for: those without a place are an autoscaler's reason to add nodes. A pool without GPUs begins with `min` and
    grows as far as the tasks that feed it keep CPUs. Towards the end idle actors stop, down to `min`.
    """

    size: int | tuple[int, int] = 1
    num_cpus: float = 1
    num_gpus: float = 0
    env: tuple[tuple[str, str], ...] = ()


def work_item_dataset(items: Sequence[WorkItem] | Sequence[SplitItem]) -> Dataset:
    """A dataset of one block per work item, ready for `append_stage`."""
    context = DataContext.get_current()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.set_config(_WORK_ITEMS, len(items))
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that its bars are off
    return ray.data.from_items([asdict(item) for item in items], override_num_blocks=len(items))


def append_stage(
    dataset: Dataset,
    stage: Callable[[Any], Stage],
    spec: object,
    *,
    pool: ActorPoolSpec | None = None,
    concurrency: int | None = None,
    memory: int = 0,
) -> Dataset:
    """Append a stage, run as tasks (at most `concurrency` at a time) or, with `pool`, as actors.

    `memory`: bytes that Ray reserves for each task, at most those of a node. Consecutive stages of tasks run as one if
    they ask for the same.
    """
    if pool is None:
        return dataset.map_batches(
            _Task(stage, spec),
            batch_format="pyarrow",
            batch_size=None,
            zero_copy_batch=True,
            concurrency=concurrency,
            memory=placeable_memory(memory),
        )
    # With GPUs Ray requires a batch size, which would cut or merge blocks: so each block travels as one row.
    packed = dataset.map_batches(_packed, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
    return packed.map_batches(
        _Actor,
        fn_constructor_args=(stage, spec),
        batch_format="pyarrow",
        batch_size=1,
        zero_copy_batch=True,
        compute=pool_strategy(pool, dataset.context.get_config(_WORK_ITEMS)),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
        runtime_env={"env_vars": dict(pool.env)} if pool.env else None,
    )


def pool_strategy(pool: ActorPoolSpec, items: int) -> ActorPoolStrategy:
    """Ray Data's strategy for a pool that has so many work items.

    Left to itself Ray Data (2.60) begins with `min` actors, adds others only as far as the nodes there are hold them,
    and asks for nodes only once it has seen work items end: with shards of half an hour, hours too late.
    """
    least, most = (min(size, items) for size in ((pool.size,) * 2 if isinstance(pool.size, int) else pool.size))
    return ActorPoolStrategy(min_size=least, max_size=most, initial_size=most if pool.num_gpus else least)


def results(dataset: Dataset) -> Iterator[pa.Table]:
    """Run the dataset and yield one table per work item as they finish. Raises the RayrecError of a stage."""
    try:
        yield from _results(dataset)
    except ExecutionTimeoutError as error:
        minutes = DataContext.get_current().execution_no_progress_timeout_s / 60
        raise stall_watch.stalled(f"{minutes:g} minutes", stall_watch.waiting_for()) from error


def _results(dataset: Dataset) -> Iterator[pa.Table]:
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        if _ERROR in table.column_names:
            kind, what, where, do = table[_ERROR][0].as_py()
            raise _error_class(kind)(what, where=where, hint=do)
        retries.add(_repeats(table))
        ray_metrics.add_repeats(_repeats(table))
        yield table.drop_columns(_repeat_columns(table))


def run_pending(
    pending: Sequence[WorkItem] | Sequence[SplitItem],
    flow: Callable[[Dataset], Dataset],
    advance: Callable[[int], None] = lambda done: None,
    count: Callable[[pa.Table], int] = lambda table: 1,
    name: str = "stage",
) -> None:
    """Run the stages that `flow` appends for the pending work items; call `advance(count(table))` for each.

    `name`: of the stages, in warnings. Raises ClusterError if nothing moves on for `resources.no_progress_minutes`.
    """
    if pending:
        limit_s = DataContext.get_current().execution_no_progress_timeout_s
        with stall_watch.watching(name, limit_s) as progressed:
            for table in results(flow(work_item_dataset(pending))):
                progressed()
                advance(count(table))


def _error_class(name: str) -> type[RayrecError]:
    """The error class of that name among all subclasses of RayrecError; RayrecError itself if there is none."""
    kinds = [RayrecError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return next((kind for kind in kinds if kind.__name__ == name), RayrecError)


def _apply(build: Callable[[], Stage], table: pa.Table) -> pa.Table:
    """Run the stage that `build` returns for the table's work item."""
    if _ERROR in table.column_names or not table.num_rows:
        return table
    item, repeats = _work_item(table), _repeats(table)
    own = table.drop_columns([*asdict(item), *_repeat_columns(table)])
    try:
        out = repeating(lambda: build()(item, own))
    except RayrecError as error:
        # Pass the error as a row: Ray pickles an exception without its cause, and users would see Ray's traceback.
        out = pa.table({_ERROR: [[type(error).__name__, error.what, error.where, error.hint]]})
    taken = retries.take()
    counts = {name: repeats.get(kind, 0) + taken.get(kind, 0) for kind, name in _REPEATS.items()}
    for name, value in (asdict(item) | counts).items():
        out = out.append_column(name, pa.repeat(pa.scalar(value, pa.int64()), out.num_rows))
    return out


def repeating(work: Callable[[], T]) -> T:
    """The result of `work`, which is repeated after a TransientStorageError and has to give the same every time."""
    return retries.retrying(
        lambda _: work(),
        retries.WORK_ITEM_POLICY,
        retries.WORK_ITEMS,
        lambda error: isinstance(error, TransientStorageError),
    )


def _repeats(table: pa.Table) -> dict[str, int]:
    """The repeats that a block's columns carry, by kind."""
    found = {kind: name for kind, name in _REPEATS.items() if name in table.column_names and table.num_rows}
    return {kind: table[name][0].as_py() for kind, name in found.items()}


def _repeat_columns(table: pa.Table) -> list[str]:
    return [name for name in _REPEATS.values() if name in table.column_names]


def _work_item(table: pa.Table) -> WorkItem | SplitItem:
    kind = SplitItem if "split" in table.column_names else WorkItem
    values = {field.name: np.unique(table[field.name].to_numpy()).tolist() for field in fields(kind)}
    if any(len(found) != 1 for found in values.values()):
        raise RuntimeError(f"a block holds the work items {values}, not one: Ray Data split or merged blocks")
    return kind(**{name: found[0] for name, found in values.items()})


@lru_cache(maxsize=8)
def _built(stage: Callable[[Any], Stage], spec: object) -> Stage:
    return stage(spec)


class _Task:
    def __init__(self, stage: Callable[[Any], Stage], spec: object) -> None:
        self._stage, self._spec = stage, spec
        self.__name__ = getattr(stage, "__name__", type(stage).__name__)

    def __call__(self, table: pa.Table) -> pa.Table:
        with thread_limit(1):  # as many as Ray Data gives a task CPUs
            return _apply(lambda: _built(self._stage, self._spec), table)


class _Actor:
    def __init__(self, stage: Callable[[Any], Stage], spec: object) -> None:
        home_folder.ensure()
        self._stage = repeating(lambda: stage(spec))

    def __call__(self, table: pa.Table) -> pa.Table:
        return _apply(lambda: self._stage, pa.ipc.open_stream(table[_PACKED][0].as_buffer()).read_all())


def _packed(table: pa.Table) -> pa.Table:
    """The block as one row that holds it as an Arrow IPC stream; an empty block is returned unchanged."""
    if not table.num_rows:
        return table
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = sink.getvalue()
    ends = pa.py_buffer(np.array([0, stream.size], np.int64))
    return pa.table({_PACKED: pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, ends, stream])})
