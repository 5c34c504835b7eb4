"""A run whose driver is killed at a named step: `python killed_driver.py CONFIG DATE MOMENT [--set ...]`.

test_driver_kills.py runs it as a separate process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import pyarrow as pa

from jobs.cli import command
from rayrec.config import load
from rayrec.pipeline import daily_run, interaction_ingest, scoring
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.slate_commit import CommitShard
from rayrec.ray_support import cluster
from rayrec.ray_support.stage_runner import WorkItem
from rayrec.storage import Storage

DRIVER = "RAYREC_TEST_DRIVER"  # the driver's pid, for the workers of its local cluster


SIGNAL = "RAYREC_TEST_SIGNAL"  # the signal; default: SIGKILL


def kill_driver() -> None:
    os.kill(int(os.environ[DRIVER]), int(os.environ.get(SIGNAL, signal.SIGKILL)))


class Killing:
    """A stage whose worker kills the driver, before the shard's work or `after` it."""

    def __init__(self, stage: Callable[[Any], Any], after: bool, spec: object) -> None:
        self._stage, self._after = stage(spec), after

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        if not self._after:
            kill_driver()
        out = self._stage(item, table)
        kill_driver()
        return out

    def commit_empty(self, shard: int) -> None:
        self._stage.commit_empty(shard)


class CommitWithoutReceipt(CommitShard):
    """Kills the driver after a shard's files are written and before its receipt."""

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        create = Storage.create

        def killing(storage: Storage, path: str, data: bytes) -> bool:
            if "/receipts/" in path:
                kill_driver()
                os.kill(os.getpid(), signal.SIGKILL)
            return create(storage, path, data)

        Storage.create = killing  # type: ignore[method-assign]
        return super().__call__(item, table)


def kill_in(module: Any, name: str, *, after: bool = False) -> None:
    setattr(module, name, partial(Killing, getattr(module, name), after))


def kill_before(name: str) -> None:
    """Kill the driver when it reaches this call."""
    setattr(daily_run, name, lambda *args, **kwargs: kill_driver())


def kill_at_publication(*, after: bool) -> None:
    create = Storage.create

    def killing(storage: Storage, path: str, data: bytes) -> bool:
        if path.endswith("manifest.json"):
            if after:
                create(storage, path, data)
            kill_driver()
        return create(storage, path, data)

    Storage.create = killing  # type: ignore[method-assign]


MOMENTS: dict[str, Callable[[], None]] = {
    "while events are read": lambda: kill_in(interaction_ingest, "IngestSplit"),
    "between two shards of histories": lambda: kill_in(interaction_ingest, "GroupShard", after=True),
    "before the fit": lambda: kill_before("fit_item_models"),
    "before the blend": lambda: kill_before("fit_blenders"),
    "in the middle of a shard": lambda: kill_in(scoring, "RetrieveShard", after=True),
    "after a file, before its receipt": lambda: setattr(daily_run, "CommitShard", CommitWithoutReceipt),
    "between two shards": lambda: kill_in(daily_run, "CommitShard", after=True),
    "before the publication": lambda: kill_at_publication(after=False),
    "just after the publication": lambda: kill_at_publication(after=True),
}


def main() -> None:
    config, context, moment, *overrides = sys.argv[1:]
    os.environ[DRIVER] = str(os.getpid())
    MOMENTS[moment]()
    work = RunContext(load(config, overrides), date.fromisoformat(context))

    def job() -> None:
        with cluster.connect(work.config.resources):
            daily_run.run(work)

    command(job)(args=[])


if __name__ == "__main__":
    main()
