"""The console script `rayrec`, the help of every job, and the wheel that carries both."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner
from waiting import PATIENCE_S

from jobs.console import JOBS, main, summary

REPOSITORY = Path(__file__).parents[2]


def helps(job: str) -> dict[str, str]:
    command = get_command(importlib.import_module(f"jobs.{job}").main)
    named = {option.opts[0].removeprefix("--").replace("-", "_"): option for option in command.params}
    return {name: str(getattr(option, "help", None) or "") for name, option in named.items()}


def test_help_lists_every_job_in_order_of_use() -> None:
    assert set(JOBS) == {path.stem for path in (REPOSITORY / "jobs").glob("*.py")} - {"__init__", "cli", "console"}
    result = CliRunner().invoke(main, ["--help"], env={"COLUMNS": "200"})
    places = [result.output.index(summary(job)) for job in JOBS]
    assert result.exit_code == 0
    assert places == sorted(places)
    assert JOBS[:4] == ("demo", "daily", "show", "evaluate")


@pytest.mark.parametrize("job", JOBS)
def test_a_subcommand_has_the_options_of_the_job(job: str) -> None:
    result = CliRunner().invoke(main, [job, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    arguments = {"submit": {"job"}}.get(job, set())
    assert {name for name in helps(job) if f"--{name.replace('_', '-')}" not in result.output} == arguments


@pytest.mark.parametrize("job", JOBS)
def test_every_option_has_a_help_text(job: str) -> None:
    assert [option for option, text in helps(job).items() if not text] == []


def test_a_job_that_reads_a_published_date_says_so() -> None:
    assert all(helps(job)["date"].startswith("The published date") for job in ("evaluate", "show", "push"))


def test_an_unknown_job_is_an_error_with_the_nearest_name() -> None:
    result = CliRunner().invoke(main, ["dayly"])
    assert result.exit_code == 2
    assert "'daily'" in result.output


@pytest.mark.slow  # builds a wheel with pip
def test_the_wheel_contains_the_jobs_and_every_data_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("rayrec", "jobs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", "out"]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=PATIENCE_S)
    (wheel,) = (source / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        (scripts,) = (name for name in inside if name.endswith("entry_points.txt"))
        assert "rayrec = jobs.console:main" in archive.read(scripts).decode()
    files = [path for name in ("rayrec", "jobs") for path in (REPOSITORY / name).rglob("*") if path.is_file()]
    wanted = {path.relative_to(REPOSITORY).as_posix() for path in files if "__pycache__" not in path.parts}
    assert wanted - inside == set()
    assert {"jobs/demo.yaml", "rayrec/py.typed", "rayrec/instructions/stopwords.yaml"} <= inside
