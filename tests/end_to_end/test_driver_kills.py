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
from small_runs import CONFIG, Run, Workspace, differences, rows
from waiting import PATIENCE_S

from rayrec import read_slates
from rayrec.errors import PublicationError
from rayrec.pipeline import daily_run
from rayrec.storage import Storage

PUBLISHED = "just after the publication"
WITHOUT_LLM = ("rerank.method=none",)  # for kills that do not involve the LLM
WITHOUT_TUNING = [moment for moment in MOMENTS if moment != "before the tuning"]


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
    "before the fit": signal.SIGINT,
    "in the middle of a shard": signal.SIGTERM,
    "between two shards": signal.SIGINT,
    "just after the publication": signal.SIGTERM,
}


def test_a_signal_ends_a_run_without_leftovers_and_the_next_run_resumes(
    first_run: Run, undisturbed: pa.Table, tmp_path: Path
) -> None:
    workspace, root = first_run[0], str(tmp_path / "out")
    temp = Path(tempfile.mkdtemp(prefix="rrs-", dir="/tmp"))  # short, for Ray's sockets
    try:
        for moment, number in SIGNALS.items():
            status = drive(workspace, root, moment, *WITHOUT_LLM, TMPDIR=str(temp), RAYREC_TEST_SIGNAL=str(int(number)))
            assert status == 128 + number, moment
            left = [name for name in os.listdir(temp) if not name.startswith("torchinductor_")]  # torch's own cache
            assert left == [], moment
            assert processes_with(f"TMPDIR={temp}") == [], moment
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    result = daily_run.run(workspace.context(root, *WITHOUT_LLM))
    assert result.already_published
    assert not differences(read_slates(root, workspace.dataset.date, verify=True), undisturbed)


def processes_with(variable: str) -> list[str]:
    """The command lines of the processes that have this `NAME=value` in their environment, without zombies."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{variable}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.fixture(scope="module")
def undisturbed(first_run: Run, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The rows of an uninterrupted run without an LLM."""
    workspace, _ = first_run
    root = workspace.prepared(tmp_path_factory.mktemp("undisturbed") / "out")
    daily_run.run(workspace.context(root, *WITHOUT_LLM))
    return rows(read_slates(root, workspace.dataset.date))


@pytest.mark.parametrize(
    ("storage_root", "moments"), [("local", WITHOUT_TUNING), ("s3", WITHOUT_TUNING[-4:])], indirect=["storage_root"]
)
def test_no_row_is_lost_when_the_driver_is_killed_at_every_step(
    first_run: Run, undisturbed: pa.Table, storage_root: str, moments: Sequence[str]
) -> None:
    workspace, _ = first_run
    kill_in_turn(workspace, storage_root, moments, *WITHOUT_LLM)
    result = daily_run.run(workspace.context(storage_root, *WITHOUT_LLM))
    assert result.already_published
    assert not differences(read_slates(storage_root, workspace.dataset.date, verify=True), undisturbed)
    named = {file.path for file in result.manifest.files}
    assert {info.path for info in Storage(storage_root).list("slates") if info.path.endswith(".parquet")} == named


def test_no_row_is_lost_when_the_driver_is_killed_around_tuning(first_run: Run, tmp_path: Path) -> None:
    workspace, first = first_run
    root = tmp_path / "out"
    shutil.copytree(workspace.root / "work", root / "work")
    kill_in_turn(workspace, str(root), ["before the tuning", "before the blend"])
    daily_run.run(workspace.context(root))
    slates, others = (read_slates(where, workspace.dataset.date) for where in (root, first.context.config.output.root))
    assert not differences(slates, others)


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
    ours, theirs = (
        read_slates(where, workspace.dataset.date, verify=True) for where in (root, first.context.config.output.root)
    )
    assert not differences(ours, theirs, but=("slate_id",))  # contains the run id
