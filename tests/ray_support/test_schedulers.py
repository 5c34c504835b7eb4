"""The Airflow DAG and the Dagster asset of deploy/ in real schedulers, which are in environments of their own.

In place of the `rayrec` command stands a script that records its words and ends with a code.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # starts a scheduler

ROOT = Path(__file__).parents[2]
RECORDER = """#!/bin/sh
echo "$@" >> "$RECORD"
exit $CODE
"""
Scheduler = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def scheduler(tmp_path: Path) -> Scheduler:
    """Runs a command of a scheduler; its exit code, its output, and the words of each call of `rayrec`."""
    command = tmp_path / "bin" / "rayrec"
    command.parent.mkdir()
    command.write_text(RECORDER)
    command.chmod(0o755)
    record = tmp_path / "record"

    def run(name: str, *words: str, code: int = 0) -> tuple[int, str, list[str]]:
        program = ROOT / f".venv-{name}" / "bin" / name
        assert program.exists(), f"{program} is missing: make schedulers"
        environment = {
            **{key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")},
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "RECORD": str(record),
            "CODE": str(code),
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "deploy" / "airflow"),
            "DAGSTER_HOME": str(tmp_path),
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }
        ended = subprocess.run([program, *words], env=environment, cwd=tmp_path, capture_output=True, text=True)
        return ended.returncode, ended.stdout + ended.stderr, record.read_text().splitlines() if record.exists() else []

    return run


def test_airflow_runs_the_dag_for_the_date_that_was_due(scheduler: Scheduler) -> None:
    assert scheduler("airflow", "db", "migrate")[0] == 0
    status, errors, _ = scheduler("airflow", "dags", "list-import-errors", "-l", "-o", "plain")
    assert "rayrec_daily" not in errors, errors
    status, output, calls = scheduler("airflow", "dags", "test", "rayrec_daily", "2026-01-31")
    assert status == 0, output
    assert len(calls) == 1, output
    assert calls[0].startswith("submit --address ")
    assert calls[0].endswith("--date 2026-01-31")
    _, output, calls = scheduler("airflow", "dags", "test", "rayrec_daily", "2026-02-01", code=3)
    assert "exit code 3" in output
    assert len(calls) == 2  # a refused run is not tried again


def test_dagster_publishes_missed_partitions_in_one_run(scheduler: Scheduler) -> None:
    materialize = ("asset", "materialize", "-f", str(ROOT / "deploy" / "dagster" / "rayrec_assets.py"))
    period = ("--select", "slates", "--partition-range", "2026-01-28...2026-01-30")
    status, output, calls = scheduler("dagster", *materialize, *period)
    assert status == 0, output
    assert len(calls) == 1
    assert calls[0].endswith("--from 2026-01-29 --to 2026-01-31")
    status, output, calls = scheduler("dagster", *materialize, *period, code=4)
    assert status != 0
    assert "exit code 4" in output
    assert len(calls) == 2
