"""One progress line per stage: users done and in all, users/s, remaining time.

    with Progress(stage="rerank", total=users) as progress:
        progress.advance(len(shard))

In place on a terminal; otherwise (`ray job logs`, a file) a new line for every tenth of the work, at most one every
five seconds, plus one at the end. Lines go to stderr, because stdout is for results. With
`--log-format json` they are JSON (rayrec.monitoring.json_log).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from rayrec.monitoring import json_log

_EVERY_S = 5.0  # seconds between two lines in a log
_WIDTH = 10  # of the stage's name, to align the lines of a job


class Progress:
    """Counts completed units of work in one stage and prints them. `advance` and `reached` may be called by two
    threads."""

    def __init__(
        self,
        stage: str,
        total: int,
        *,
        unit: str = "users",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`total`: units of work in all, 0 or more; `clock`: seconds, for tests."""
        self.stage, self.total, self.unit, self.done = stage, total, unit, 0
        self._reached, self._lock = 0, threading.Lock()
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._started = self._printed = self._clock()
        self._tenth = 0
        if self._console.is_terminal and not json_log.active():
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[line]}"))
            self._bar = Bar(*columns, console=self._console, refresh_per_second=4)
            self._task = self._bar.add_task(f"{self.stage:<{_WIDTH}}", total=max(self.total, 1), line=self._line())
            self._bar.start()
        return self

    def advance(self, n: int = 1) -> None:
        """Add `n` completed units."""
        with self._lock:
            self.done += n
            self._show()

    def reached(self, n: int) -> None:
        """So many units are done or as good as done: rate and remaining time go by them until they are completed."""
        with self._lock:
            self._reached = max(self._reached, min(n, self.total))
            self._show()

    def _show(self) -> None:
        at = self._at
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=at, line=self._line())
            return
        now, tenth = self._clock(), 10 * at // max(self.total, 1)
        if self.done < self.total and tenth > self._tenth and now - self._printed >= _EVERY_S:
            self._printed, self._tenth = now, tenth
            self._say(self._line())

    @property
    def _at(self) -> int:
        return max(self.done, self._reached)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None and self._task is not None:
            completed = max(self.total, 1) if kind is None else self.done
            self._bar.update(self._task, completed=completed, line=self._end(kind))
            self._bar.stop()
        else:
            self._say(self._end(kind))

    def _say(self, line: str) -> None:
        if json_log.active():
            seconds = round(self._clock() - self._started, 1)
            json_log.say(line, stage=self.stage, done=self.done, total=self.total, unit=self.unit, seconds=seconds)
            return
        self._console.print(f"{self.stage:<{_WIDTH}} {line}", markup=False, soft_wrap=True)

    def _counts(self, at: int) -> str:
        return f"{at:,} / {self.total:,} {self.unit}"

    def _rate(self, at: int) -> float:
        return at / max(self._clock() - self._started, 1e-9)

    def _line(self) -> str:
        if not (at := self._at):
            return self._counts(at)
        share, rate = at / max(self.total, 1), self._rate(at)
        left = format_duration((self.total - at) / rate)
        return f"{self._counts(at)}  {share:.0%}  {rate:,.0f} {self.unit}/s  {left} left"

    def _end(self, failed: type[BaseException] | None) -> str:
        took = format_duration(self._clock() - self._started)
        if failed is not None:
            return f"{self._counts(self.done)}  stopped after {took} ({failed.__name__})"
        return f"{self._counts(self.done)}  done in {took}  {self._rate(self.done):,.0f} {self.unit}/s"


def format_epoch(row: Mapping[str, float], epochs: int | None = None) -> str:
    """One row of a loss curve as text; `epochs`: their planned number."""
    validation = f"  validation {row['validation']:.4f}" if "validation" in row else ""
    return f"epoch {row['epoch']:.0f}{f' / {epochs}' if epochs else ''}  loss {row['loss']:.4f}{validation}"


def format_duration(seconds: float) -> str:
    """A duration in readable units: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
