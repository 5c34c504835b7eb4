"""A Dagster asset: rayrec's slates, one partition a date, on the cluster whose job API JOB_API names.

    dagster dev -f rayrec_assets.py

The code location needs rayrec's environment (`rayrec` on PATH, the config and code in WORKING_DIR), RAY_AUTH_MODE=token
and RAY_AUTH_TOKEN. A backfill of several partitions is one run that publishes the missed ones in order.
"""

# No `from __future__ import annotations` here: Dagster reads the annotation of `context` as it stands.
import subprocess
from datetime import date, timedelta

import dagster as dg

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


def command_line(first: date, last: date) -> list[str]:
    """What publishes the dates from `first` to `last`: slates of a date come from the events before it."""
    name = f"rayrec-{first}-{last}"
    submit = ["rayrec", "submit", "--address", JOB_API, "--working-dir", WORKING_DIR, "--submission-id", name]
    period = ["--from", first.isoformat(), "--to", last.isoformat()]
    return [*submit, "--", "python", "-m", "jobs.backfill", *SETTINGS, *period]


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition(start_date="2026-01-01", hour_offset=0, timezone="UTC"),
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=dg.RetryPolicy(max_retries=2, delay=600),
)
def slates(context: dg.AssetExecutionContext) -> None:
    """A partition holds a day's events; its slates are those of the next date."""
    days = context.partition_time_window
    code = subprocess.run(
        command_line((days.start + timedelta(days=1)).date(), days.end.date()), check=False
    ).returncode
    if code:
        raise dg.Failure(f"exit code {code}: see the job's log", allow_retries=code not in NO_RETRY)


publish = dg.define_asset_job("publish", selection=[slates])
defs = dg.Definitions(
    assets=[slates],
    jobs=[publish],
    schedules=[dg.build_schedule_from_partitioned_job(publish, hour_of_day=2, minute_of_hour=30)],
)
