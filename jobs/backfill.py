"""Publish the missed dates of a period: each that is not published yet, in order.

    python -m jobs.backfill --config C --set data.root=DIR --set output.root=OUT --from 2026-01-28 --to 2026-01-31

Each date is a run of `jobs.daily` of its own. The first that fails ends the job, with that run's exit code.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import date as Date
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli import ConfigPath, Overrides, as_date, command, settings
from rayrec.errors import ConfigError
from rayrec.monitoring import json_log
from rayrec.publishing.manifest import find_manifest
from rayrec.storage import Storage

_END_S = 5.0  # for a run to end by itself when this job is stopped

First = Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="The first date of the period.")]
Last = Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="The last date of the period, included.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print which dates would run, and stop.")]


def backfill(
    config: ConfigPath, first: First, last: Last, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Publish the missed dates of a period, in order."""
    loaded = settings(config, overrides)
    days = dates(as_date(first), as_date(last))
    storage, done, skipped = Storage(loaded.output.root), 0, 0
    for place, day in enumerate(days):
        if find_manifest(storage, day) is not None:  # only now: another run may have published it meanwhile
            skipped += 1
            _say(f"{day} is published already: skipped")
            continue
        _say(f"{day} {'would run' if dry_run else 'runs'} ({place + 1} of {len(days)} dates)")
        code = 0 if dry_run else run(daily_command(config, overrides or (), day))
        if code:
            left = ", ".join(str(each) for each in days[place + 1 :])
            _say(f"{day} failed with exit code {code}; {f'not tried: {left}' if left else 'it was the last date'}")
            raise typer.Exit(code)
        done += 1
    _say(f"{done} dates {'would run' if dry_run else 'published'}, {skipped} skipped")


def dates(first: Date, last: Date) -> list[Date]:
    """Every date of the period, oldest first. Raises ConfigError for a period that ends before it begins."""
    if last < first:
        raise ConfigError("the period ends before it begins", where=f"--from {first} --to {last}", hint="swap them")
    return [first + timedelta(days=after) for after in range((last - first).days + 1)]


def daily_command(config: Path, overrides: Sequence[str], day: Date) -> list[str]:
    """The run of one date, with the same settings."""
    log = ["--log-format", "json"] if json_log.active() else []
    sets = [part for each in overrides for part in ("--set", each)]
    return [sys.executable, "-m", "jobs.daily", "--config", str(config), *sets, "--date", day.isoformat(), *log]


def run(words: Sequence[str]) -> int:
    """Run a command; its exit code, as shells report it. If this process is stopped, so is the command."""
    with subprocess.Popen(words) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait(timeout=_END_S)
            raise
    return code if code >= 0 else 128 - code


def _say(words: str) -> None:
    if json_log.active():
        json_log.say(words, stage="backfill")
    else:
        print(f"backfill: {words}", file=sys.stderr, flush=True)


main = command(backfill)

if __name__ == "__main__":
    main()
