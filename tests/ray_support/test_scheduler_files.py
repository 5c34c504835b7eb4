"""The Airflow DAG and the Dagster asset of deploy/: the command that they run for a date, with stand-ins for both."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import typer

from jobs import backfill, daily, submit

DEPLOY = Path(__file__).parents[2] / "deploy"
AIRFLOW, DAGSTER = DEPLOY / "airflow" / "rayrec_daily.py", DEPLOY / "dagster" / "rayrec_assets.py"
DAY = datetime.date(2026, 1, 31)


class Failure(Exception):
    """An error of the scheduler."""


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The file's names. Decorators give the function they are put on; a DAG's tasks are in `tasks`."""
    tasks: list[Any] = []

    def task(**_: Any) -> Any:
        return lambda function: tasks.append(function) or MagicMock()

    def itself(**_: Any) -> Any:
        return lambda function: function

    airflow, sdk, errors, dagster = (ModuleType(name) for name in ("airflow", "sdk", "exceptions", "dagster"))
    vars(sdk).update(dag=itself, task=task)
    vars(errors).update(AirflowFailException=Failure)
    vars(dagster).update({name: MagicMock() for name in ("DailyPartitionsDefinition", "BackfillPolicy", "RetryPolicy")})
    vars(dagster).update({name: MagicMock() for name in ("define_asset_job", "Definitions", "AssetExecutionContext")})
    vars(dagster).update(asset=itself, Failure=Failure, build_schedule_from_partitioned_job=MagicMock())
    for name, module in (("", airflow), (".sdk", sdk), (".sdk.exceptions", errors)):
        monkeypatch.setitem(sys.modules, f"airflow{name}", module)
    monkeypatch.setitem(sys.modules, "dagster", dagster)
    names: dict[str, Any] = {"__name__": path.stem, "tasks": tasks}
    exec(compile(path.read_text(encoding="utf8"), str(path), "exec"), names)
    return names


def parsed(job: Any, words: list[str]) -> dict[str, Any]:
    """The parameters that the job's own command line reads from the words."""
    command = typer.main.get_command(job.main)
    return dict(command.make_context("job", list(words)).params)


@pytest.mark.parametrize(("path", "job"), [(AIRFLOW, daily), (DAGSTER, backfill)])
def test_the_command_is_one_that_both_jobs_take(path: Path, job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = loaded(path, monkeypatch)
    words = names["command_line"](DAY) if path == AIRFLOW else names["command_line"](DAY, DAY)
    assert words[:2] == ["rayrec", "submit"]
    outer = parsed(submit, words[2:])
    assert outer["submission_id"].startswith(f"rayrec-{DAY}")
    inner = outer["job"]
    assert inner[:3] == ["python", "-m", f"jobs.{job.__name__.rpartition('.')[2]}"]
    read = parsed(job, inner[3:])
    assert {read[name].date() for name in ("date", "first", "last") if name in read} == {DAY}


@pytest.mark.parametrize(
    ("code", "error"), [(0, None), (1, RuntimeError), (2, RuntimeError), (3, Failure), (4, Failure)]
)
def test_airflow_runs_the_date_that_was_due(code: int, error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names, ran = loaded(AIRFLOW, monkeypatch), list[list[str]]()
    monkeypatch.setattr(
        names["subprocess"], "run", lambda words, check: ran.append(words) or MagicMock(returncode=code)
    )
    due = datetime.datetime(2026, 1, 31, 2, 30, tzinfo=datetime.UTC)
    if error is None:
        names["tasks"][0](data_interval_end=due)
    else:
        with pytest.raises(error, match=f"exit code {code}"):
            names["tasks"][0](data_interval_end=due)
    assert ran == [names["command_line"](DAY)]


def test_dagster_runs_the_dates_after_its_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    names, ran = loaded(DAGSTER, monkeypatch), list[list[str]]()
    monkeypatch.setattr(names["subprocess"], "run", lambda words, check: ran.append(words) or MagicMock(returncode=0))
    start, end = (datetime.datetime(2026, 1, day, tzinfo=datetime.UTC) for day in (28, 31))  # 28th, 29th, 30th
    names["slates"](MagicMock(partition_time_window=MagicMock(start=start, end=end)))
    assert ran == [names["command_line"](datetime.date(2026, 1, 29), DAY)]
