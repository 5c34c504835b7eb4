"""The night's job: events in, published slates out.

    python -m jobs.daily --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --date 2011-08-31
    ray job submit --working-dir . -- python -m jobs.daily --config ... --date ...

Run it again after any failure: it goes on where it stopped, and does nothing where the day is published and has its
report. `--dry-run` says what would be done.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, settings
from rayrec.errors import DataError, MissingFileError
from rayrec.pipeline import daily_run as pipeline
from rayrec.pipeline.daily_run import RunResult
from rayrec.pipeline.dry_run import describe
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.run_report import report_data, select_example_users
from rayrec.ray_support import cluster
from rayrec.reporting.html_report import has_report, write_report
from rayrec.reporting.terminal import print_user, results_console
from rayrec.storage import layout

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan: what is done already, what would run.")]


def daily(
    config: ConfigPath,
    date: DateOption,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
) -> None:
    """Publish one date's slates."""
    work = RunContext(settings(config, overrides, print_config), as_date(date))
    console = results_console()
    if dry_run:
        console.print(describe(work), markup=False, soft_wrap=True)
        return
    with cluster.connect(work.config.resources):
        night = pipeline.run(work)
    show(night, console)


def show(night: RunResult, console: Console) -> None:
    """Where the slates are, the counts, a few users, and the report."""
    work, manifest = night.context, night.manifest
    where = work.storage.url(layout.slates_folder(work.date))
    if night.already_published:
        console.print(f"{work.dt} is already published, by this very run; nothing was done: {where}", soft_wrap=True)
        if not has_report(work.storage, work.dt):
            console.print(f"report:  {_write_missing_report(night)}", soft_wrap=True, markup=False)
        return
    people = select_example_users(work, manifest, work.config.output.examples)
    for person in people:
        print_user(console, person)
    report = write_report(report_data(night, people), work.storage)
    print_counts(night, console)
    console.print(f"slates:  {where} ({night.publication.outcome})", soft_wrap=True)
    console.print(f"report:  {report}", soft_wrap=True)


def _write_missing_report(night: RunResult) -> str:
    """Write the report of a night that ended between its publication and its report, from what it left; in words."""
    work = night.context
    try:
        people = select_example_users(work, night.manifest, work.config.output.examples)
        return f"{write_report(report_data(night, people), work.storage)} (written now, without timings)"
    except MissingFileError as gone:
        return f"the day has none, and what it is made of is gone: {gone.where}"
    except DataError as unread:
        return f"the day has none, and what it is made of cannot be read: {unread.where}"


def print_counts(night: RunResult, console: Console) -> None:
    """users in = published + quarantined + ineligible, and what else one asks first."""
    manifest = night.manifest
    users = manifest.users
    rows = [("users in", users.users_in), ("users published", users.published)]
    rows += [(f"users in quarantine: {reason}", n) for reason, n in users.quarantined.items()]
    rows += [(f"users ineligible: {reason}", n) for reason, n in users.ineligible.items()]
    rows += [("slate rows", manifest.rows), ("input rows", sum(file.rows or 0 for file in manifest.inputs))]
    rows += [("input files left out: other days' paths", night.context.window_files.skipped)]
    rows += [(f"input rows in quarantine: {reason}", n) for reason, n in manifest.quarantined_rows.items()]
    rows += [(f"prompts scored by {engine}", n) for engine, n in manifest.engine.items()]
    for name, count in rows:
        console.print(f"{name:<44} {count:>12,}", markup=False, highlight=False)


main = command(daily)

if __name__ == "__main__":
    main()
