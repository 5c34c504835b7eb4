"""Shared command line of the jobs: `--config`, `--set`, `--date`, and errors without a traceback.

A job is a typer command: `main = command(daily)`, run as `rayrec daily …` or `python -m jobs.daily …`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from rayrec.config import Config, load
from rayrec.errors import user_error
from rayrec.ray_support import stop_signals
from rayrec.redaction import shown_traceback
from rayrec.storage import home_folder

ConfigPath = Annotated[
    Path, typer.Option("--config", help="YAML file with the settings, e.g. conf/online_retail.yaml.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override one setting: section.key=value. May be repeated.")
]
DateOption = Annotated[
    datetime,
    typer.Option("--date", formats=["%Y-%m-%d"], help="The date to recommend for; only earlier days are known."),
]
PublishedDateOption = Annotated[datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="The published date.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the complete settings as YAML and stop.")]


def settings(config: Path, overrides: list[str] | None, print_config: bool = False) -> Config:
    """The validated settings; with `print_config`, print them as YAML and exit with status 0."""
    loaded = load(config, overrides or ())
    if print_config:
        typer.echo(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)
        raise typer.Exit
    return loaded


def as_date(day: datetime) -> date:
    """typer parses dates as datetimes; jobs need dates."""
    return day.date()


def print_counts(console: Console, counts: Iterable[tuple[str, int]]) -> None:
    """Names and numbers in two columns."""
    for name, count in counts:
        console.print(f"{name:<44} {count:>12,}", markup=False, highlight=False)


def command(job: Callable[..., None]) -> typer.Typer:
    """A typer app of one command that prints a RayrecError without its traceback and exits with its `exit_code`."""

    @functools.wraps(job)
    def without_traceback(*args: Any, **kwargs: Any) -> None:
        console = Console(stderr=True, highlight=False)
        home_folder.ensure()
        with stop_signals.handled():
            try:
                job(*args, **kwargs)
            except BaseException as error:
                if (signal := stop_signals.received()) is not None:
                    console.print(f"stopped by {signal.name}; run the same command again: it resumes", soft_wrap=True)
                    stop_signals.finish(stop_signals.exit_code(signal))
                known = user_error(error)
                if known is None:
                    sys.excepthook = _print_traceback
                    raise
                console.print(f"error: {known}", style="red", markup=False, soft_wrap=True)
                raise typer.Exit(known.exit_code) from None

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(without_traceback)
    return app


def _print_traceback(_kind: type[BaseException], error: BaseException, _where: TracebackType | None) -> None:
    """An excepthook: a traceback may quote credentials, rows, and file names with escape sequences."""
    print(shown_traceback(error), file=sys.stderr)
