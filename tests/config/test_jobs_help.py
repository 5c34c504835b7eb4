"""Every option of every job says what it is for."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from typer.main import get_command

JOBS = sorted(
    path.stem for path in (Path(__file__).parents[2] / "jobs").glob("*.py") if path.stem not in ("__init__", "cli")
)


def helps(job: str) -> dict[str, str]:
    command = get_command(importlib.import_module(f"jobs.{job}").main)
    return {str(option.name): str(getattr(option, "help", None) or "") for option in command.params}


@pytest.mark.parametrize("job", JOBS)
def test_every_option_says_what_it_is_for(job: str) -> None:
    assert [option for option, text in helps(job).items() if not text] == []


@pytest.mark.parametrize("job", ["evaluate", "show"])
def test_a_job_that_reads_a_published_day_says_so(job: str) -> None:
    assert helps(job)["date"].startswith("The published day")
