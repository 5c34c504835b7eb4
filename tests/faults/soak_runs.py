"""What a driver of the harness does: a daily run with its report, an erasure, an evaluation."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import cache

from one_process import without_ray
from rich.console import Console
from tiny_runs import CONFIG, TinyShop

from jobs import daily, evaluate, forget
from rayrec.instructions.templates import load_templates
from rayrec.numerics.threads import thread_limit
from rayrec.pipeline import daily_run, run_context
from rayrec.ray_support import cluster, stop_signals
from rayrec.storage.retries import RetryPolicy

CODE = "soak"  # the code version: a soak goes on while the code is edited
LATER_DAYS = 3

run_context.load_templates = cache(load_templates)
run_context.load_templates(None)  # half of a tiny run; drivers are forked from a process that has imported this


def run_alone(shop: TinyShop, output: str, overrides: Sequence[str] = (), code: str = CODE) -> None:
    """A daily run and its report in this process, without Ray."""
    with _alone():
        _run(shop, output, overrides, code)


def run_on_cluster(shop: TinyShop, output: str, overrides: Sequence[str] = (), code: str = CODE) -> None:
    """The same on the cluster of the environment, as a job: a wait without progress ends it."""
    with stop_signals.handled(), cluster.connect(shop.context(output, *overrides).config.resources):
        _run(shop, output, overrides, code)


def forget_alone(shop: TinyShop, output: str, users: str) -> None:
    """jobs.forget of the file's users."""
    with _alone():
        forget.forget(CONFIG, users, "user_id", None, shop.overrides(output), False)


def evaluate_alone(shop: TinyShop, output: str) -> None:
    """jobs.evaluate."""
    with _alone():
        day = datetime.combine(shop.dataset.date, datetime.min.time())
        evaluate.evaluate(CONFIG, day, LATER_DAYS, None, shop.overrides(output), False)


def _run(shop: TinyShop, output: str, overrides: Sequence[str], code: str) -> None:
    context = shop.context(output, *overrides)
    context = replace(context, code_version=code) if code else context
    daily.show(daily_run.run(context), Console(file=io.StringIO()))


@contextmanager
def _alone() -> Iterator[None]:
    RetryPolicy.pause_s = lambda self, repeat: 0.001  # type: ignore[method-assign]  # the process ends with the run
    with without_ray(), thread_limit(1):
        yield
