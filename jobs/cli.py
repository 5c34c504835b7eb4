"""What all jobs share on the command line: the options `--config`, `--set`, `--date`, and errors in words.

A job is a typer command wrapped once: `main = command(daily)`, run as `python -m jobs.daily --config C --date D`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from rayrec.config import Config, load
from rayrec.errors import RayrecError

ConfigPath = Annotated[
    Path, typer.Option("--config", help="YAML file with the settings, e.g. conf/online_retail.yaml.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override one setting: section.key=value. May be repeated.")
]
DateOption = Annotated[
    datetime,
    typer.Option("--date", formats=["%Y-%m-%d"], help="The day to recommend for; only days before it are known."),
]
PublishedDateOption = Annotated[datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="The published day.")]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the settings as they would be used, and stop.")
]


def settings(config: Path, overrides: list[str] | None, print_config: bool = False) -> Config:
    """The validated settings; with `print_config`, print them as YAML and leave with status 0."""
    loaded = load(config, overrides or ())
    if print_config:
        typer.echo(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)
        raise typer.Exit
    return loaded


def as_date(day: datetime) -> date:
    """typer reads days as datetimes; jobs want dates."""
    return day.date()


def command(job: Callable[..., None]) -> typer.Typer:
    """A typer app of one command that prints a RayrecError without its traceback and exits with its `exit_code`."""

    @functools.wraps(job)
    def in_words(*args: Any, **kwargs: Any) -> None:
        try:
            job(*args, **kwargs)
        except Exception as error:
            known = user_error(error)
            if known is None:
                raise
            Console(stderr=True, highlight=False).print(f"error: {known}", style="red", markup=False, soft_wrap=True)
            raise typer.Exit(known.exit_code) from None

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(in_words)
    return app


def user_error(error: BaseException) -> RayrecError | None:
    """The RayrecError in `error` or behind it: Ray wraps what a task raised in errors of its own."""
    behind: BaseException | None = error
    while behind is not None:
        cause = getattr(behind, "cause", None)  # ray.exceptions.RayTaskError keeps the task's own error here
        if isinstance(cause, BaseException):
            behind = cause
        elif isinstance(behind, RayrecError):
            return behind
        else:
            behind = behind.__cause__ if type(behind).__module__.startswith("ray.") else None
    return None
