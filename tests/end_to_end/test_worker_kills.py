"""kill -9 of workers and engine actors during a run: it continues and gives the same rows."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pyarrow as pa
import pytest
import ray
import test_worker_kills as this_module
from small_runs import Run, differences

from rayrec import read_slates
from rayrec.pipeline import daily_run, scoring
from rayrec.pipeline.slate_commit import CommitShard
from rayrec.ray_support.stage_runner import WorkItem
from rayrec.storage import Storage

ray.cloudpickle.register_pickle_by_value(this_module)  # workers cannot import a test


def die_once(marker: Path) -> None:
    """SIGKILL this process on the first call over all processes."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def marker(context: object, name: str) -> Path:
    return Path(context.storage.root) / name


class DenoiseKilled(scoring.DenoiseShard):
    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        die_once(marker(self._scoring.context, "a worker while it denoises"))
        return super().__call__(item, table)


class EngineKilled(scoring.RerankShard):
    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        out = super().__call__(item, table)  # kill after the engine has scored: its results are lost
        die_once(marker(self._scoring.context, "an engine actor"))
        return out


class CommitKilled(CommitShard):
    """Kills the worker between a shard's files and its receipt."""

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        once, create = marker(self._context, "a worker between files and receipt"), Storage.create

        def killing(storage: Storage, path: str, data: bytes) -> bool:
            if "/receipts/" in path:
                die_once(once)
            return create(storage, path, data)

        Storage.create = killing
        try:
            return super().__call__(item, table)
        finally:
            Storage.create = create


def test_killed_workers_lose_no_row(first_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills in one run: while denoising, after the LLM has scored, and between a shard's files and its receipt."""
    workspace, result = first_run
    root = workspace.prepared(tmp_path / "out")
    monkeypatch.setattr(scoring, "DenoiseShard", DenoiseKilled)
    monkeypatch.setattr(scoring, "RerankShard", EngineKilled)
    monkeypatch.setattr(daily_run, "CommitShard", CommitKilled)
    other = daily_run.run(workspace.context(root))
    killed = ("a worker while it denoises", "an engine actor", "a worker between files and receipt")
    assert [name for name in killed if not (root / name).exists()] == []
    slates = read_slates(root, workspace.dataset.date, verify=True)
    assert not differences(slates, read_slates(result.context.config.output.root, workspace.dataset.date))
    named = {file.path for file in other.manifest.files}
    assert {info.path for info in other.context.storage.list("slates")} - named == {
        f"slates/dt={other.context.dt}/manifest.json"
    }
