"""A group of Ray Train workers, started together, identified by rank, and restarted when one dies.

    run(partial(learn, what), WorkerGroup(count=2), "tune")    # learn(what, worker, report) in each worker

The work stores its own checkpoints, so a restarted group and a restarted job find the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar, cast

from rich.console import Console

from rayrec.errors import ConfigError, DataError, RayrecError
from rayrec.numerics.collectives import Worker
from rayrec.numerics.threads import with_thread_limit
from rayrec.ray_support import stall_watch
from rayrec.storage import home_folder, temporary_folders

T = TypeVar("T")
_LAST_LINES_S = 10.0  # limit for printing the last lines

ReportCallback = Callable[[Mapping[str, float], str], None]
"""Called by every worker after each round: the round's metrics, and a progress line."""


@dataclass(frozen=True)
class WorkerGroup:
    """Number and resources of the workers; `gpus` per worker, 0 or 1. Each uses as many threads as it has CPUs."""

    count: int = 1
    cpus: float = 1
    gpus: float = 0
    restarts: int = 2


def run(work: Callable[[Worker, ReportCallback], object], workers: WorkerGroup, name: str) -> None:
    """Run `work` in every worker of a group. ConfigError and DataError are raised unchanged."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer

    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    with temporary_folders.temporary_folder() as folder, _told_by_workers(name) as lines:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"work": with_thread_limit(workers.cpus, work), "lines": lines},
            scaling_config=ScalingConfig(
                num_workers=workers.count, use_gpu=bool(workers.gpus), resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=name, storage_path=str(folder), failure_config=FailureConfig(max_failures=workers.restarts)
            ),
        )
        try:
            failure = trainer.fit().return_value
        except WorkerGroupError as error:
            raise _cause(error) from error
    if failure is not None:
        raise failure


@contextmanager
def _told_by_workers(name: str) -> Iterator[Any]:
    """A queue whose lines the driver prints, because workers' own output goes to Ray's log files. While none comes, a
    warning says what the workers wait for.

    It lives on the driver's node, so that the loss of another node does not affect it. If it dies, only lines are
    lost.
    """
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    console = Console(stderr=True, highlight=False)

    with stall_watch.watching(name, first_s=stall_watch.LONG_S) as progressed:

        def tell() -> None:
            with suppress(ray.exceptions.RayError):
                while (line := queue.get()) is not None:
                    progressed()
                    console.print(line, markup=False, soft_wrap=True)

        teller = Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield queue
        finally:
            with suppress(ray.exceptions.RayError):
                queue.put(None)
            teller.join(_LAST_LINES_S)
            queue.shutdown()


def _work(config: Mapping[str, Any]) -> RayrecError | None:
    import ray.train.torch

    home_folder.ensure()
    context = ray.train.get_context()
    device = ray.train.torch.get_device().type
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)

    def report(row: Mapping[str, float], line: str) -> None:
        if worker.rank == 0:
            with suppress(ray.exceptions.RayError):
                config["lines"].put(line)
        ray.train.report(dict(row))

    try:
        config["work"](worker, report)
    except (ConfigError, DataError) as error:
        return error  # every worker returns the same; raising would only restart them
    return None


def _cause(error: Any) -> BaseException:
    """The RayrecError that stopped a worker, if any; else Ray's own error."""
    for failure in error.worker_failures.values():
        base = getattr(failure, "_base_exc", failure)
        if isinstance(base, RayrecError):
            return base
    return cast(BaseException, error)
