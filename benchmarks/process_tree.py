"""Memory and CPU time of this process and all its descendants.

Memory is the proportional set size, which counts shared pages once. CPU time is that of every process seen so far.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread


@dataclass
class Peak:
    bytes: int = 0
    _cpu: dict[int, float] = field(default_factory=dict)  # by process

    @property
    def cpu_seconds(self) -> float:
        """Since `watched` began; what a process used after the last sample is not in it."""
        return sum(self._cpu.values())

    def sample(self, before: dict[int, float]) -> None:
        pids = descendants(os.getpid())
        self.bytes = max(self.bytes, sum(memory_of(pid) for pid in pids))
        self._cpu.update({pid: max(_cpu(pid) - before.get(pid, 0.0), self._cpu.get(pid, 0.0)) for pid in pids})


@contextmanager
def watched(every_s: float = 1.0) -> Iterator[Peak]:
    """The highest sum seen so far, sampled in a thread."""
    peak, stop = Peak(), Event()
    before = {pid: _cpu(pid) for pid in descendants(os.getpid())}

    def watch() -> None:
        while not stop.wait(every_s):
            peak.sample(before)

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


def _cpu(pid: int) -> float:
    """User and system time in seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it has ended
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> int:
    """Proportional set size in bytes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it has ended
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
