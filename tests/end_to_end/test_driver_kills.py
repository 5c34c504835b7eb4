"""kill -9 of a night's driver at every named step: readers see nothing, and the next run ends with the same rows."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from killed_driver import MOMENTS
from small_runs import CONFIG, Made, differences, rows
from waiting import PATIENCE_S

from rayrec import read_slates
from rayrec.errors import PublicationError
from rayrec.pipeline import daily_run
from rayrec.pipeline.daily_run import RunResult
from rayrec.storage import Storage

PUBLISHED = "just after the publication"
WITHOUT_LLM = ("rerank.method=none",)  # where the LLM has no part in what is killed


def drive(made: Made, root: str, moment: str, *overrides: str) -> int:
    """A night in a process of its own; its exit status."""
    sets = made.overrides(root, "resources.local_cpus=2", *overrides)
    script = Path(__file__).with_name("killed_driver.py")
    command = [sys.executable, str(script), str(CONFIG), made.shop.date.isoformat(), moment, *sets]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(script.parent), *sys.path])  # for the workers
    return subprocess.run(command, env=environment, timeout=PATIENCE_S).returncode


def slates_after(made: Made, root: str, moment: str) -> None:
    """Right after the kill: nothing, or, where the manifest is there, everything."""
    if moment == PUBLISHED:
        assert read_slates(root, made.shop.date, verify=True).num_rows
    else:
        with pytest.raises(PublicationError, match="nothing is published here"):
            read_slates(root, made.shop.date)


def assert_nothing_is_left_over(root: str, night: RunResult) -> None:
    named = {file.path for file in night.manifest.files}
    found = {info.path for info in Storage(root).list("slates") if info.path.endswith(".parquet")}
    assert found == named


@pytest.fixture(scope="module")
def whole(first_night: tuple[Made, RunResult], tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The rows of a night without an LLM that nobody disturbed."""
    made, _ = first_night
    root = made.prepared(tmp_path_factory.mktemp("whole") / "out")
    daily_run.run(made.context(root, *WITHOUT_LLM))
    return rows(read_slates(root, made.shop.date))


@pytest.mark.parametrize("moment", [moment for moment in MOMENTS if moment != "before the tuning"])
def test_a_killed_driver_costs_no_row(
    first_night: tuple[Made, RunResult], whole: pa.Table, tmp_path: Path, moment: str
) -> None:
    made, _ = first_night
    root = str(tmp_path / "out")
    assert drive(made, root, moment, *WITHOUT_LLM) == -signal.SIGKILL
    slates_after(made, root, moment)
    night = daily_run.run(made.context(root, *WITHOUT_LLM))
    assert night.already_published == (moment == PUBLISHED)
    assert not differences(read_slates(root, made.shop.date, verify=True), whole)
    assert_nothing_is_left_over(root, night)


def test_a_driver_killed_before_and_after_tuning_costs_no_row(
    first_night: tuple[Made, RunResult], tmp_path: Path
) -> None:
    made, first = first_night
    root = tmp_path / "out"
    shutil.copytree(made.root / "work", root / "work")
    assert drive(made, str(root), "before the tuning") == -signal.SIGKILL
    assert drive(made, str(root), "before the blend") == -signal.SIGKILL
    slates_after(made, str(root), "before the blend")
    daily_run.run(made.context(root))
    slates, undisturbed = (read_slates(where, made.shop.date) for where in (root, first.context.config.output.root))
    assert not differences(slates, undisturbed)


@pytest.mark.parametrize("moment", ["after a file, before its receipt", "before the publication", PUBLISHED])
def test_on_s3_too(first_night: tuple[Made, RunResult], whole: pa.Table, tmp_path: Path, moment: str) -> None:
    made, _ = first_night
    root = f"s3://rayrec-tests/{tmp_path.name}"
    assert drive(made, root, moment, *WITHOUT_LLM) == -signal.SIGKILL
    slates_after(made, root, moment)
    daily_run.run(made.context(root, *WITHOUT_LLM))
    assert not differences(read_slates(root, made.shop.date, verify=True), whole)


def test_a_whole_night_on_s3_gives_the_rows_of_one_on_local_files(
    first_night: tuple[Made, RunResult],
) -> None:
    """Everything lies on S3: events, histories, models, the LLM's checkpoints, slates."""
    made, first = first_night
    shop, root = "s3://rayrec-tests/shop", "s3://rayrec-tests/night"
    source = Path(made.shop.data_root)
    for file in source.rglob("*"):
        if file.is_file():
            Storage(shop).write(file.relative_to(source).as_posix(), file.read_bytes())
    daily_run.run(made.context(root, f"data.root={shop}"))
    ours, theirs = (
        read_slates(where, made.shop.date, verify=True) for where in (root, first.context.config.output.root)
    )
    assert not differences(ours, theirs, but=("slate_id",))  # it names the inputs' versions
