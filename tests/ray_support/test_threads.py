"""A task computes on as many threads as it has CPUs in any process: another number would change the last bits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from sys import modules

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from threadpoolctl import threadpool_info

from rayrec.numerics.collectives import Worker
from rayrec.numerics.threads import thread_limit
from rayrec.ray_support.cluster import task, wait_for
from rayrec.ray_support.stage_runner import WorkItem, append_stage, results, work_item_dataset
from rayrec.ray_support.training_workers import ReportCallback, WorkerGroup, run

ray.cloudpickle.register_pickle_by_value(modules[__name__])  # workers cannot import a test


def computing() -> set[int]:
    """The numbers of threads that this process's libraries use."""
    return {torch.get_num_threads(), *(library["num_threads"] for library in threadpool_info())}


def record(path: Path) -> None:
    """A task's result: those numbers, in a file."""
    path.write_text(json.dumps(sorted(computing())))


@pytest.fixture
def used(local_ray: None) -> None:
    """A cluster whose two processes have loaded their libraries in a task of one CPU."""
    assert ray.get([ray.remote(num_cpus=1)(computing).remote() for _ in range(4)])


class Count:
    """Stage: the number of threads it computes on."""

    def __init__(self, _: object) -> None:
        return

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        return pa.table({"threads": sorted(computing())})


@pytest.mark.parametrize(("cpus", "count"), [(1, 1), (2, 2), (2.9, 2), (0.5, 1)])
def test_a_block_has_its_threads_and_restores_the_previous_number(cpus: float, count: int) -> None:
    with thread_limit(3):
        with thread_limit(cpus):
            assert computing() == {count}
        assert computing() == {3}


def test_threads_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="an error"), thread_limit(before + 1):
        raise ValueError("an error")
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("cpus", [1, 2])
def test_a_task_in_a_reused_process_computes_on_its_own_cpus(cpus: int, tmp_path: Path) -> None:
    wait_for(task(record, cpus).remote(tmp_path / "threads"))
    assert json.loads((tmp_path / "threads").read_text()) == [cpus]


@pytest.mark.usefixtures("used")
def test_a_stage_computes_on_one_thread_after_a_task_of_two(tmp_path: Path) -> None:
    wait_for(task(record, 2).remote(tmp_path / "threads"))
    assert json.loads((tmp_path / "threads").read_text()) == [2]
    items = [WorkItem(0, shard) for shard in range(4)]
    counted = pa.concat_tables(results(append_stage(work_item_dataset(items), Count, None)))
    assert np.unique(counted["threads"]).tolist() == [1]


@pytest.mark.usefixtures("used")
def test_a_training_worker_computes_on_its_cpus(tmp_path: Path) -> None:
    def work(worker: Worker, report: ReportCallback) -> None:
        found: Mapping[str, float] = {"threads": max(computing())}
        (tmp_path / "threads").write_text(str(sorted(computing())))
        report(found, "counted")

    run(work, WorkerGroup(cpus=2), "count")
    assert (tmp_path / "threads").read_text() == "[2]"
