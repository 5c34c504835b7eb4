"""Publish the slates of one date.

    python -m jobs.daily --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --date 2011-08-31
    rayrec submit -- python -m jobs.daily --config ... --date ...

After any failure run it again: it resumes, and does nothing if the date is published and has its report. `--dry-run`
prints what would be done.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, print_counts, settings
from rayrec.errors import DataError, MissingFileError
from rayrec.pipeline import daily_run, run_watch
from rayrec.pipeline.daily_run import RunResult
from rayrec.pipeline.dry_run import describe
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.run_report import report_data, select_example_users
from rayrec.ray_support import cluster
from rayrec.reporting.html_report import has_report, write_report
from rayrec.reporting.terminal import print_user, results_console
from rayrec.storage import layout

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what is done and what would run, and stop.")]

Cold = Annotated[bool, typer.Option("--cold", help="Tune anew, as with --set tuning.warm_start=none.")]


def daily(
    config: ConfigPath,
    date: DateOption,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    cold: Cold = False,
    print_config: PrintConfig = False,
) -> None:
    """Publish the slates of one date."""
    overrides = [*(overrides or ()), *(["tuning.warm_start=none"] if cold else ())]
    context = RunContext(settings(config, overrides, print_config), as_date(date))
    console = results_console()
    if dry_run:
        console.print(describe(context), markup=False, soft_wrap=True)
        return
    with run_watch.watched(context) as status:
        with cluster.connect(context.config.resources):
            result = daily_run.run(context, status)
        show(result, console)


def show(result: RunResult, console: Console) -> None:
    """Print a few users, the counts, and where slates and report are; write the report."""
    context, slates = result.context, result.context.storage.url(layout.slates_folder(result.context.date))
    for version in result.table_versions:
        console.print(f"table:   {version}", markup=False)
    if result.already_published:
        console.print(f"{context.dt} is already published by this run; nothing was done: {slates}", soft_wrap=True)
        if not has_report(context.storage, context.dt):
            console.print(f"report:  {_write_missing_report(result)}", soft_wrap=True, markup=False)
        return
    users = select_example_users(context, result.manifest, context.config.output.examples)
    for user in users:
        print_user(console, user)
    data = report_data(result, users)
    context.require_same_erasure_list("the slates are published without them, and the report is not written")
    report = write_report(data, context.storage)
    print_counts(console, result_counts(result))
    console.print(f"slates:  {slates} ({result.publication.outcome})", soft_wrap=True)
    console.print(f"report:  {report}", soft_wrap=True)


def _write_missing_report(result: RunResult) -> str:
    """Write the report of a run that was killed after its publication. Gives its path, or why there is none."""
    context = result.context
    try:
        users = select_example_users(context, result.manifest, context.config.output.examples)
        return f"{write_report(report_data(result, users), context.storage)} (written now, without timings)"
    except MissingFileError as missing:
        return f"none, and it cannot be written now, because a file is missing: {missing.where}"
    except DataError as unreadable:
        return f"none, and it cannot be written now, because a file cannot be read: {unreadable.where}"


def result_counts(result: RunResult) -> list[tuple[str, int]]:
    """users in = published + quarantined + ineligible; then rows and prompts."""
    manifest, users = result.manifest, result.manifest.users
    return [
        ("users in", users.users_in),
        ("users published", users.published),
        *((f"users in quarantine: {reason}", n) for reason, n in users.quarantined.items()),
        *((f"users ineligible: {reason}", n) for reason, n in users.ineligible.items()),
        ("slate rows", manifest.rows),
        ("input rows", sum(file.rows or 0 for file in manifest.inputs)),
        ("input files of other days, skipped", result.context.window_files.skipped),
        *((f"input rows in quarantine: {reason}", n) for reason, n in manifest.quarantined_rows.items()),
        *((f"prompts scored by {engine}", n) for engine, n in manifest.engine.items()),
        *((f"{kind} repeated after storage errors", n) for kind, n in sorted(result.repeats.items())),
    ]


main = command(daily)

if __name__ == "__main__":
    main()
