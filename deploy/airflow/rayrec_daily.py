"""An Airflow 3 DAG: one date of rayrec for each run of the schedule, on the cluster whose job API JOB_API names.

Copy it into the dags folder. The workers need rayrec's environment (`rayrec` on PATH, the config and code in
WORKING_DIR), RAY_AUTH_MODE=token and RAY_AUTH_TOKEN. Runs that the scheduler missed are made up for in order, each
with its own date. A worker that is lost finds its job again by the submission id.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, date, datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException

JOB_API = "http://REPLACE-head:8265"
WORKING_DIR = "/opt/rayrec"
SETTINGS = [
    "--config",
    "conf/daily.yaml",
    "--set",
    "data.root=s3://REPLACE-input",
    "--set",
    "output.root=s3://REPLACE-output",
]
NO_RETRY = (3, 4)  # docs/operations.md#exit-codes: another attempt ends the same way


def command_line(day: date) -> list[str]:
    """What publishes one date: slates of that date, from the events before it."""
    submit = [
        "rayrec",
        "submit",
        "--address",
        JOB_API,
        "--working-dir",
        WORKING_DIR,
        "--submission-id",
        f"rayrec-{day}",
    ]
    return [*submit, "--", "python", "-m", "jobs.daily", *SETTINGS, "--date", day.isoformat()]


@dag(schedule="30 2 * * *", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=True, max_active_runs=1)
def rayrec_daily() -> None:
    @task(retries=2, retry_delay=timedelta(minutes=10))
    def publish(data_interval_end: datetime | None = None) -> None:
        """`data_interval_end` is when the run was due, however late it starts."""
        assert data_interval_end is not None
        code = subprocess.run(command_line(data_interval_end.date()), check=False).returncode
        if code in NO_RETRY:
            raise AirflowFailException(f"exit code {code}: see the job's log above")
        if code:
            raise RuntimeError(f"exit code {code}: see the job's log above")

    publish()


rayrec_daily()
