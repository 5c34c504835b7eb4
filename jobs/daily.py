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

from jobs.cli import ConfigPath, DayOption, Overrides, PrintConfig, command, day_of, settings
from rayrec import cluster
from rayrec.errors import DataError, MissingFileError
from rayrec.evaluation.report import has_report, write_report
from rayrec.evaluation.terminal import print_person, results_console
from rayrec.pipeline import daily as pipeline
from rayrec.pipeline.daily import Night
from rayrec.pipeline.day import Day
from rayrec.pipeline.plan import describe
from rayrec.pipeline.reporting import people_worth_showing, report_data
from rayrec.publishing import layout

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan: what is done already, what would run.")]


def daily(
    config: ConfigPath,
    date: DayOption,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    print_config: PrintConfig = False,
) -> None:
    """Publish one date's slates."""
    work = Day(settings(config, overrides, print_config), day_of(date))
    console = results_console()
    if dry_run:
        console.print(describe(work), markup=False, soft_wrap=True)
        return
    with cluster.connect(work.config.resources):
        night = pipeline.run(work)
    show(night, console)


def show(night: Night, console: Console) -> None:
    """Where the slates are, the counts, a few users, and the report."""
    work, manifest = night.day, night.manifest
    where = work.storage.url(layout.slates_folder(work.date))
    if night.already:
        console.print(f"{work.dt} is already published, by this very run; nothing was done: {where}", soft_wrap=True)
        if not has_report(work.storage, work.dt):
            console.print(f"report:  {_late_report(night)}", soft_wrap=True, markup=False)
        return
    people = people_worth_showing(work, manifest, work.config.output.examples)
    for person in people:
        print_person(console, person)
    report = write_report(report_data(night, people), work.storage)
    print_counts(night, console)
    console.print(f"slates:  {where} ({night.publication.outcome})", soft_wrap=True)
    console.print(f"report:  {report}", soft_wrap=True)


def _late_report(night: Night) -> str:
    """Write the report of a night that ended between its publication and its report, from what it left; in words."""
    work = night.day
    try:
        people = people_worth_showing(work, night.manifest, work.config.output.examples)
        return f"{write_report(report_data(night, people), work.storage)} (written now, without timings)"
    except MissingFileError as gone:
        return f"the day has none, and what it is made of is gone: {gone.where}"
    except DataError as unread:
        return f"the day has none, and what it is made of cannot be read: {unread.where}"


def print_counts(night: Night, console: Console) -> None:
    """users in = published + quarantined + ineligible, and what else one asks first."""
    manifest = night.manifest
    users = manifest.users
    rows = [("users in", users.users_in), ("users published", users.published)]
    rows += [(f"users in quarantine: {reason}", n) for reason, n in users.quarantined.items()]
    rows += [(f"users ineligible: {reason}", n) for reason, n in users.ineligible.items()]
    rows += [("slate rows", manifest.rows), ("input rows", sum(file.rows or 0 for file in manifest.inputs))]
    rows += [("input files left out: other days' paths", night.day.window_files.left_out)]
    rows += [(f"input rows in quarantine: {reason}", n) for reason, n in manifest.quarantined_rows.items()]
    rows += [(f"prompts scored by {engine}", n) for engine, n in manifest.engine.items()]
    for name, count in rows:
        console.print(f"{name:<44} {count:>12,}", markup=False, highlight=False)


main = command(daily)

if __name__ == "__main__":
    main()
