"""Memory of this process and all its descendants: proportional set size, which counts shared pages once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread


@dataclass
class Peak:
    bytes: int = 0


@contextmanager
def watched(every_s: float = 1.0) -> Iterator[Peak]:
    """The highest sum seen so far, sampled in a thread."""
    peak, stop = Peak(), Event()

    def watch() -> None:
        while not stop.wait(every_s):
            peak.bytes = max(peak.bytes, sum(_pss(pid) for pid in descendants(os.getpid())))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def descendants(root: int) -> set[int]:
    """`root` and every process below it."""
    parents = {pid: parent for pid in _running() if (parent := _parent(pid)) is not None}
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return found


def _running() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it has ended
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
