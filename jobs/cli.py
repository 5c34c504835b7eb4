"""Shared command line of the jobs: `--config`, `--set`, `--date`, and errors without a traceback.

A job is a typer command: `main = command(daily)`, run as `rayrec daily …` or `python -m jobs.daily …`.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from rayrec.config import Config, load
from rayrec.errors import user_error
from rayrec.monitoring import json_log
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


class LogFormat(StrEnum):
    """How a job writes to stderr."""

    text = "text"
    json = "json"


LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="Progress, warnings and errors on stderr: text, or JSON, one a line.")
]
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
    """A typer app of one command that prints a RayrecError without its traceback and exits with its `exit_code`.

    It adds the option `--log-format` to those of the job.
    """

    @functools.wraps(job)
    def without_traceback(*args: Any, log_format: LogFormat = LogFormat.text, **kwargs: Any) -> None:
        console = Console(stderr=True, highlight=False)
        home_folder.ensure()
        with _logging_as(log_format), stop_signals.handled():
            try:
                job(*args, **kwargs)
            except BaseException as error:
                if (signal := stop_signals.received()) is not None:
                    _say_end(console, f"stopped by {signal.name}; run the same command again: it resumes")
                    stop_signals.finish(stop_signals.exit_code(signal))
                known = user_error(error)
                if known is None:
                    sys.excepthook = _log_traceback if json_log.active() else _print_traceback
                    raise
                fields = {"error": known.what, "where": known.where, "to_do": known.hint}
                _say_end(console, f"error: {known}", style="red", **fields, exit_code=known.exit_code)
                raise typer.Exit(known.exit_code) from None

    own = inspect.signature(job, eval_str=True)
    added = inspect.Parameter(
        "log_format", inspect.Parameter.KEYWORD_ONLY, default=LogFormat.text, annotation=LogFormatOption
    )
    both = own.replace(parameters=[*own.parameters.values(), added])
    without_traceback.__signature__ = both  # type: ignore[attr-defined]
    without_traceback.__annotations__ = {name: each.annotation for name, each in both.parameters.items()}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(without_traceback)
    return app


@contextmanager
def _logging_as(log_format: LogFormat) -> Iterator[None]:
    if log_format is LogFormat.text:
        yield
        return
    handler = json_log.start()
    try:
        yield
    finally:
        json_log.stop(handler)


def _say_end(console: Console, words: str, style: str | None = None, **fields: object) -> None:
    if json_log.active():
        json_log.say(words, logging.ERROR, **fields)
    else:
        console.print(words, style=style, markup=False, soft_wrap=True)


def _print_traceback(_kind: type[BaseException], error: BaseException, _where: TracebackType | None) -> None:
    """An excepthook: a traceback may quote credentials, rows, and file names with escape sequences."""
    print(shown_traceback(error), file=sys.stderr)


def _log_traceback(_kind: type[BaseException], error: BaseException, _where: TracebackType | None) -> None:
    """`_print_traceback` as JSON."""
    with _logging_as(LogFormat.json):
        json_log.say(type(error).__name__, logging.ERROR, traceback=shown_traceback(error), exit_code=1)
