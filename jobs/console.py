"""The console script `rayrec`: every job as a subcommand, in the usual order of use.

`rayrec daily …` is `python -m jobs.daily …`. `rayrec --install-completion` adds shell completion.
"""

from __future__ import annotations

import ast
import importlib
from importlib.resources import files
from typing import Any

import typer
from typer.core import TyperGroup

JOBS = (
    "demo",
    "daily",
    "show",
    "evaluate",
    "push",
    "fit",
    "tune",
    "merge",
    "teach",
    "embed",
    "forget",
    "submit",
    "backfill",
    "plan",
)


class JobGroup(TyperGroup):
    """Imports a job when it is run or its options are completed: `rayrec --help` does not wait for Ray and torch."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            command = typer.main.get_command(importlib.import_module(f"jobs.{name}").main)
        return name, command, rest


def summary(job: str) -> str:
    """The first line of the job's module docstring, without importing the job."""
    source = files("jobs").joinpath(f"{job}.py").read_text(encoding="utf8")
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


main = typer.Typer(cls=JobGroup, no_args_is_help=True, pretty_exceptions_enable=False)


@main.callback()
def rayrec() -> None:
    """Daily recommendation scoring on Ray. The jobs stand in the order in which you need them."""


for _job in JOBS:
    main.command(_job, help=summary(_job))(lambda: None)

if __name__ == "__main__":
    main()
