"""kill -9 of a run's driver at every named step: readers see nothing, and the next run gives the same rows."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from killed_driver import MOMENTS
from small_runs import CONFIG, WITHOUT_LLM, Run, Workspace, differences
from waiting import PATIENCE_S

from rayrec import read_slates
from rayrec.errors import PublicationError
from rayrec.pipeline import daily_run
from rayrec.storage import Storage, layout

PUBLISHED = "just after the publication"
FIRST, LAST = list(MOMENTS)[:5], list(MOMENTS)[5:]  # up to the candidates of a shard; from its files on


def drive(workspace: Workspace, root: str, moment: str, *overrides: str, **environ: str) -> int:
    """Start a run as a separate process; returns its exit status."""
    sets = workspace.overrides(root, "resources.local_cpus=2", *overrides)
    script = Path(__file__).with_name("killed_driver.py")
    command = [sys.executable, str(script), str(CONFIG), workspace.dataset.date.isoformat(), moment, *sets]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(script.parent), *sys.path])  # for the workers
    environment |= environ
    return subprocess.run(command, env=environment, timeout=PATIENCE_S).returncode


def kill_in_turn(workspace: Workspace, root: str, moments: Sequence[str], *overrides: str) -> None:
    """Kill a run at each step in turn; each run resumes what the previous one left."""
    for moment in moments:
        assert drive(workspace, root, moment, *overrides) == -signal.SIGKILL, moment
        if moment == PUBLISHED:
            assert read_slates(root, workspace.dataset.date, verify=True).num_rows
        else:
            with pytest.raises(PublicationError, match="nothing is published here"):
                read_slates(root, workspace.dataset.date)


SIGNALS = {
    "while events are read": signal.SIGTERM,
    "in the middle of a shard": signal.SIGINT,
    "just after the publication": signal.SIGTERM,
}


def test_a_signal_ends_a_run_without_leftovers_and_the_next_run_resumes(without_llm: Run, tmp_path: Path) -> None:
    (workspace, undisturbed), root = without_llm, str(tmp_path / "out")
    temp = Path(tempfile.mkdtemp(prefix="rrs-", dir="/tmp"))  # short, for Ray's sockets
    try:
        for moment, number in SIGNALS.items():
            status = drive(workspace, root, moment, WITHOUT_LLM, TMPDIR=str(temp), RAYREC_TEST_SIGNAL=str(int(number)))
            assert status == 128 + number, moment
            left = [name for name in os.listdir(temp) if not name.startswith("torchinductor_")]  # torch's own cache
            assert left == [], moment
            assert processes_with(f"TMPDIR={temp}") == [], moment
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    result = daily_run.run(workspace.context(root, WITHOUT_LLM))
    assert result.already_published
    assert not differences(published(workspace, root), published(workspace, undisturbed.context.config.output.root))


def published(workspace: Workspace, root: str | Path) -> pa.Table:
    return read_slates(root, workspace.dataset.date, verify=True)


def processes_with(variable: str) -> list[str]:
    """The command lines of the processes that have this `NAME=value` in their environment, without zombies."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{variable}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.parametrize(("storage_root", "moments"), [("local", FIRST), ("s3", LAST)], indirect=["storage_root"])
def test_no_row_is_lost_when_the_driver_is_killed_at_every_step(
    without_llm: Run, storage_root: str, moments: Sequence[str]
) -> None:
    workspace, undisturbed = without_llm
    kill_in_turn(workspace, storage_root, moments, WITHOUT_LLM)
    result = daily_run.run(workspace.context(storage_root, WITHOUT_LLM))
    assert result.already_published == (PUBLISHED in moments)
    rows = published(workspace, storage_root)
    assert not differences(rows, published(workspace, undisturbed.context.config.output.root))
    named = {file.path for file in result.manifest.files}
    assert {info.path for info in Storage(storage_root).list("slates") if info.path.endswith(".parquet")} == named


def test_no_row_is_lost_when_the_driver_is_killed_after_tuning(first_run: Run, tmp_path: Path) -> None:
    workspace, first = first_run
    root = workspace.prepared(tmp_path / "out")
    shutil.rmtree(root / layout.model_kind_folder(layout.LLM_KIND))
    kill_in_turn(workspace, str(root), ["before the blend"])
    daily_run.run(workspace.context(root))
    assert not differences(published(workspace, root), published(workspace, first.context.config.output.root))


def test_a_run_on_s3_with_other_shards_and_workers_gives_the_same_rows(first_run: Run) -> None:
    """Events, histories, models, LLM checkpoints and slates are all on S3."""
    workspace, first = first_run
    dataset, root = "s3://rayrec-tests/shop", "s3://rayrec-tests/out"
    source = Path(workspace.dataset.data_root)
    for file in source.rglob("*"):
        if file.is_file():
            Storage(dataset).write(file.relative_to(source).as_posix(), file.read_bytes())
    workers = ("resources.score_tasks=3", "resources.rerank_actors=2", "resources.rerank_num_cpus=0.4")
    daily_run.run(workspace.context(root, f"data.root={dataset}", "data.shards=3", *workers))
    ours, theirs = (published(workspace, where) for where in (root, first.context.config.output.root))
    assert not differences(ours, theirs, but=("slate_id",))  # contains the run id
