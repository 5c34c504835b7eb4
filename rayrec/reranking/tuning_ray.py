"""Tuning through Ray Train: workers, restarts and progress lines around `tune_here`.

Checkpoints are ours (one file beside the artefact-to-be), not Ray's: a restarted worker group and a restarted job find
the same one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Thread
from typing import Any, cast

from rich.console import Console

from rayrec.errors import ConfigError, DataError, RayrecError
from rayrec.reranking import artefact
from rayrec.reranking.artefact import Card
from rayrec.reranking.tuning import TuningSpec, tune_here
from rayrec.reranking.tuning_loop import Worker
from rayrec.storage import Storage


@dataclass(frozen=True)
class Workers:
    """What the tuning asks of the cluster; `gpus` a worker, 0 or 1."""

    count: int = 1
    cpus: float = 1
    gpus: float = 0
    restarts: int = 2


def tune(specs: Sequence[TuningSpec], workers: Workers) -> list[Card]:
    """Tune (or find) the artefacts of `specs`, one after another, in one group of workers: starting it takes long.

    If the first is judged (`until`), the others run as many epochs as it found best. Errors as of `tune_here`.
    """
    if not all(artefact.exists(Storage(spec.root), spec.path) for spec in specs):
        _run(list(specs), workers)
    return [artefact.read_card(Storage(spec.root), spec.path) for spec in specs]


def _run(specs: list[TuningSpec], workers: Workers) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer

    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    with tempfile.TemporaryDirectory(prefix="rayrec-train-") as folder, _told_by_workers() as lines:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"specs": specs, "lines": lines},
            scaling_config=ScalingConfig(
                num_workers=workers.count, use_gpu=bool(workers.gpus), resources_per_worker=resources
            ),
            run_config=RunConfig(
                name="tune", storage_path=folder, failure_config=FailureConfig(max_failures=workers.restarts)
            ),
        )
        try:
            failure = trainer.fit().return_value
        except WorkerGroupError as error:
            raise _cause(error) from error
    if failure is not None:
        raise failure


@contextmanager
def _told_by_workers() -> Iterator[Any]:
    """A queue whose lines the driver prints as they come: what workers print themselves stays in Ray's log files."""
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})
    console = Console(stderr=True, highlight=False)

    def tell() -> None:
        while (line := queue.get()) is not None:
            console.print(line, markup=False, soft_wrap=True)

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield queue
    finally:
        queue.put(None)
        teller.join()
        queue.shutdown()


def _work(config: Mapping[str, Any]) -> RayrecError | None:
    import ray.train.torch

    context = ray.train.get_context()
    device = ray.train.torch.get_device().type
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    epochs: int | None = None
    for planned in config["specs"]:
        spec = planned if epochs is None else replace(planned, stop_after=epochs)

        def report(row: Mapping[str, float], spec: TuningSpec = spec) -> None:
            if worker.rank == 0:
                config["lines"].put(progress_line(row, spec))
            ray.train.report(dict(row))

        try:
            card = tune_here(spec, worker, report)
        except (ConfigError, DataError) as error:
            return error  # every worker finds the same; raised, it would only restart them
        if planned.until is not None:
            epochs = card.epochs
    return None


def _cause(error: Any) -> BaseException:
    """What the user can put right, if that is what stopped a worker; else Ray's own error."""
    for failure in error.worker_failures.values():
        base = getattr(failure, "_base_exc", failure)
        if isinstance(base, RayrecError):
            return base
    return cast(BaseException, error)


def progress_line(row: Mapping[str, float], spec: TuningSpec) -> str:
    """One epoch, as people read it; of the model as of `now`."""
    planned = spec.stop_after or spec.settings.epochs
    judged = f"  validation {row['validation']:.3f}" if "validation" in row else ""
    speed = row["tokens"] / max(row["seconds"], 1e-9)
    as_of = datetime.fromtimestamp(spec.now / 1e6, UTC).date()
    epoch = f"tune       as of {as_of}  epoch {row['epoch']:.0f} / {planned}"
    settings = spec.settings
    chosen = "" if settings.choose == "all" else f"  {settings.choose} {settings.budget:.0%} of users"
    return f"{epoch}  loss {row['loss']:.3f}{judged}  {speed:,.0f} tokens/s{chosen}"
