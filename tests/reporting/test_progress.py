"""Progress in plain logs and on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rayrec.monitoring.progress import Progress, format_duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(steps: int, seconds_each: float, *, total: int | None = None, terminal: bool = False) -> list[str]:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, highlight=False)
    with Progress("rerank", steps if total is None else total, console=console, clock=clock) as progress:
        for _ in range(steps):
            clock.now += seconds_each
            progress.advance()
    return out.getvalue().splitlines()


def test_a_log_gets_a_line_every_tenth_and_one_at_the_end() -> None:
    lines = run(100, 1.0)
    assert len(lines) == 10
    assert lines[0] == "rerank     10 / 100 users  10%  1 users/s  1 min 30 s left"
    assert lines[-1] == "rerank     100 / 100 users  done in 1 min 40 s  1 users/s"


def test_a_fast_stage_has_one_line() -> None:
    assert run(1000, 0.001) == ["rerank     1,000 / 1,000 users  done in 1.0 s  1,000 users/s"]


def test_no_users_are_no_error() -> None:
    assert run(0, 0, total=0)[-1].startswith("rerank     0 / 0 users  done")


def test_a_failed_stage_prints_its_progress() -> None:
    out = io.StringIO()

    def stage() -> None:
        with Progress("fit", 10, console=Console(file=out, width=120), clock=Clock()) as progress:
            progress.advance(3)
            raise KeyError("x")

    with pytest.raises(KeyError):
        stage()
    assert out.getvalue() == "fit        3 / 10 users  stopped after 0.0 s (KeyError)\n"


def test_a_terminal_gets_one_line_in_place() -> None:
    text = "\n".join(run(50, 1.0, terminal=True))
    assert "\x1b[" in text
    assert "50 / 50 users  done in 50 s" in text


def test_durations_have_readable_units() -> None:
    assert [format_duration(s) for s in (0.42, 12, 65, 3600 * 2 + 605)] == ["0.4 s", "12 s", "1 min 05 s", "2 h 10 min"]


def test_work_within_a_shard_moves_rate_and_remaining_time() -> None:
    clock, out = Clock(), io.StringIO()
    with Progress("score", 100, console=Console(file=out, width=120), clock=clock) as progress:
        clock.now += 10
        progress.reached(20)
        clock.now += 10
        progress.reached(40)
        progress.reached(30)  # a shard that is scored again
        progress.advance(25)  # the shard is committed: no news
        clock.now += 10
        progress.advance(75)
    assert out.getvalue().splitlines() == [
        "score      20 / 100 users  20%  2 users/s  40 s left",
        "score      40 / 100 users  40%  2 users/s  30 s left",
        "score      100 / 100 users  done in 30 s  3 users/s",
    ]
