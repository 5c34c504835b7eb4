"""How Ray Data carries the stages: one input row is one shard (or split), one block is one shard, all the way.

Blocks stay whole because Ray's block splitting is switched off for these datasets and every hand-over takes a block as
one batch; that is checked at each stage, loudly, rather than believed. The stages themselves know nothing of Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from rayrec.errors import RayrecError
from rayrec.numerics.threads import thread_limit

WORK_ITEM = "unit"  # the column that says which shard (or split) a row belongs to
_ERROR = "rayrec_error"


class ShardStage(Protocol):
    """One thing done to one shard's table. Built once a process from a hashable spec; heavy loading happens there."""

    def __call__(self, unit: int, table: pa.Table, /) -> pa.Table: ...


@dataclass(frozen=True)
class ActorPoolSpec:
    """A pool of actors, each holding what its stage loaded for the whole job. `size` is a number or (min, max)."""

    size: int | tuple[int, int] = 1
    num_cpus: float = 1
    num_gpus: float = 0
    env: tuple[tuple[str, str], ...] = ()


def work_item_dataset(work_items: Sequence[int]) -> Dataset:
    """A dataset of one block a unit, ready for `carry`."""
    context = DataContext.get_current()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that bars are off; ours are on
    return ray.data.from_items([{WORK_ITEM: unit} for unit in work_items], override_num_blocks=len(work_items))


def carry(
    dataset: Dataset,
    stage: Callable[[Any], ShardStage],
    spec: object,
    *,
    pool: ActorPoolSpec | None = None,
    concurrency: int | None = None,
) -> Dataset:
    """Append a stage: as tasks that any free worker picks up (`concurrency` at a time), or with `pool` as actors."""
    if pool is None:
        return dataset.map_batches(
            _Task(stage, spec), batch_format="pyarrow", batch_size=None, zero_copy_batch=True, concurrency=concurrency
        )
    size = {"size": pool.size} if isinstance(pool.size, int) else {"min_size": pool.size[0], "max_size": pool.size[1]}
    # map_batches itself refuses a GPU without a batch size, and a batch size would cut or merge the blocks.
    return dataset.map_batches_internal(
        _Actor,
        fn_constructor_args=(stage, spec),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        compute=ActorPoolStrategy(**size),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
        runtime_env={"env_vars": dict(pool.env)} if pool.env else None,
    )


def results(dataset: Dataset) -> Iterator[pa.Table]:
    """Run the dataset; one table a unit, in the order in which they finish. Raises the RayrecError of a stage."""
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        if _ERROR in table.column_names:
            kind, what, where, do = table[_ERROR][0].as_py()
            raise _kind_named(kind)(what, where=where, hint=do)
        yield table


def _kind_named(name: str) -> type[RayrecError]:
    """The error of that name, wherever this process has it from; RayrecError itself where it has none."""
    kinds = [RayrecError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return next((kind for kind in kinds if kind.__name__ == name), RayrecError)


def _apply(stage: ShardStage, table: pa.Table) -> pa.Table:
    if _ERROR in table.column_names or not table.num_rows:
        return table
    work_items = np.unique(table[WORK_ITEM].to_numpy())
    if len(work_items) != 1:
        raise RuntimeError(f"a block holds the units {work_items.tolist()}, not one: Ray Data split or merged blocks")
    unit = int(work_items[0])
    try:
        out = stage(unit, table.drop_columns([WORK_ITEM]))
    except RayrecError as error:
        # As a row: Ray pickles an exception without its cause, and the user would read Ray's traceback instead.
        out = pa.table({_ERROR: [[type(error).__name__, error.what, error.where, error.hint]]})
    return out.append_column(WORK_ITEM, pa.array(np.full(out.num_rows, unit, np.int32)))


@lru_cache(maxsize=8)
def _built(stage: Callable[[Any], ShardStage], spec: object) -> ShardStage:
    return stage(spec)


class _Task:
    def __init__(self, stage: Callable[[Any], ShardStage], spec: object) -> None:
        self._stage, self._spec = stage, spec
        self.__name__ = getattr(stage, "__name__", type(stage).__name__)

    def __call__(self, table: pa.Table) -> pa.Table:
        with thread_limit(1):  # as many as Ray Data gives a task CPUs
            return _apply(_built(self._stage, self._spec), table)


class _Actor:
    def __init__(self, stage: Callable[[Any], ShardStage], spec: object) -> None:
        self._stage = stage(spec)

    def __call__(self, table: pa.Table) -> pa.Table:
        return _apply(self._stage, table)
