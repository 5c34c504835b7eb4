"""How long tests wait for other processes: for a slow machine no test fails, but a process that hangs fails one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO

PATIENCE_S = 1800.0
"""For whatever another process does, whole runs included."""


def line_of(
    process: subprocess.Popen[str],
    stream: IO[str] | None,
    wanted: Callable[[str], bool] = lambda line: True,
    timeout_s: float = PATIENCE_S,
) -> str:
    """The next wanted line of the process's stream; those before it are dropped, and what comes after stays unread.

    AssertionError where the stream ends without one, or the time; the process is killed then.
    """
    assert stream is not None
    found: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        found.put(next((line for line in iter(stream.readline, "") if wanted(line)), ""))

    Thread(target=read, daemon=True).start()
    try:
        line = found.get(timeout=timeout_s)
    except Empty:
        process.kill()
        raise AssertionError(f"not said within {timeout_s:g} s: {process.args!r}") from None
    if not line:
        process.kill()
        raise AssertionError(f"ended without saying it: {process.args!r}")
    return line
