"""Faults in the storage of any process: kills, full disks, passing errors and delays, at chosen calls.

A control folder holds the plan and a journal to which every call of every process adds one record, so that a moment is
the number of a call, whichever process makes it.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from ray_heads import node_raylets

CONTROL = "RAYREC_FAULTS"  # environment: the control folder
READS = ("find", "info", "read", "read_range", "open")
WRITES = ("staging_file", "move_in", "create")
CALLS = (*READS, *WRITES, "delete")
_DELAYS_S = (0.0, 0.0, 0.005, 0.02)
_KILLED = "killed-nodes-"  # beginning of the names of files that say so
_RECORD = 1  # bytes of a journal record: r or w
_inside: ContextVar[bool] = ContextVar("inside", default=False)
_HALF_BYTES = 100  # what a file takes before the disk is full
_CALLS_TOGETHER, _FAILURES_TOGETHER = 8, 3  # a call of Storage: 4 attempts (retries.CALL_POLICY) of up to 2 calls
_recent = threading.local()  # `failed`: whether each of a thread's last calls failed


@dataclass(frozen=True)
class Plan:
    """What goes wrong. `at`: number of the call, from 1, over all processes; 0: never.

    - kill: SIGKILL `victim` (0: the calling process) before or after the call.
    - full: from the write number `at` on, `lasting` or once, there is no space: the call fails, or, with `half`, the
      file that it begins takes a few bytes only.
    - node: before the first write of a file whose path matches a pattern of `where`, the nodes that joined the
      cluster's head are killed (their raylets), and with them the worker that was about to write; once a pattern.
    - flaky: `percent` of the calls fail, before or after their work, with an error that passes; all are delayed a bit,
      so that calls of several processes change their order. A thread meets fewer failures in a row than a call of
      Storage, which is up to two calls here, has attempts: what fails more often does not pass.
    """

    kind: str = "none"
    at: int = 0
    after: bool = False
    victim: int = 0
    half: bool = False
    lasting: bool = False
    percent: int = 0
    seed: int = 0
    where: tuple[str, ...] = ()

    def write(self, control: Path) -> None:
        """Start a new plan and journal."""
        control.mkdir(parents=True, exist_ok=True)
        (control / "journal").write_bytes(b"")
        (control / "done").write_bytes(b"")
        staged = control / "plan.staged"
        staged.write_text(json.dumps(asdict(self)))
        staged.replace(control / "plan.json")
        for left in control.glob(f"{_KILLED}*"):
            left.unlink()


def calls(control: Path) -> tuple[int, int]:
    """Number of calls, and of writes among them, since the plan was written."""
    journal = (control / "journal").read_bytes()
    return len(journal), journal.count(b"w")


def faults(control: Path) -> int:
    """Number of faults injected since the plan was written."""
    return len((control / "done").read_bytes())


def killed_nodes(control: Path) -> set[int]:
    """The patterns of the plan's `where`, by number, at which nodes were killed."""
    return {int(path.name.removeprefix(_KILLED)) for path in control.glob(f"{_KILLED}*")}


def install(module: Any) -> None:
    """Wrap the storage calls of a module of backends in this process, once."""
    for kind in list(vars(module).values()):
        if isinstance(kind, type) and kind.__module__ == module.__name__:
            for name in CALLS:
                plain = vars(kind).get(name)  # its own: a subclass inherits the wrapped one
                if callable(plain) and not hasattr(plain, "faulty"):
                    setattr(kind, name, _faulty(name, plain))


def lift_limit() -> None:
    """End what `half` began in this process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _faulty(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def call(self: Any, *arguments: Any) -> Any:
        control = os.environ.get(CONTROL)
        if not control or _inside.get():  # `find` calls `info`: one call of the store
            return plain(self, *arguments)
        token = _inside.set(True)
        try:
            return faulty(self, Path(control), arguments)
        finally:
            _inside.reset(token)

    def faulty(self: Any, folder: Path, arguments: tuple[Any, ...]) -> Any:
        lift_limit()
        plan = Plan(**json.loads((folder / "plan.json").read_text()))
        number = _record(folder, b"w" if name in WRITES else b"r")
        if plan.kind == "kill" and number == plan.at and not plan.after:
            _kill(folder, plan)
        if plan.kind == "node" and name in WRITES:
            _kill_nodes(folder, plan, " ".join(each for each in arguments if isinstance(each, str)))
        if plan.kind == "full" and name in WRITES:
            _fill_up(folder, plan, name)
        lost = False
        if plan.kind == "flaky":
            lost = _fail(folder, plan, number)
        answer = plain(self, *arguments)
        if name == "find":
            answer = list(answer)
        if plan.kind == "kill" and number == plan.at and plan.after:
            _kill(folder, plan)
        if lost:
            raise OSError(errno.EIO, "injected after the call")
        return answer

    call.faulty = True  # type: ignore[attr-defined]
    return call


def _record(folder: Path, kind: bytes) -> int:
    """Add to the journal; the number of this record."""
    journal = os.open(folder / "journal", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(journal, kind)
        return os.lseek(journal, 0, os.SEEK_CUR) // _RECORD
    finally:
        os.close(journal)


def _did(folder: Path) -> None:
    done = os.open(folder / "done", os.O_WRONLY | os.O_APPEND)
    os.write(done, b"x")
    os.close(done)


def _kill(folder: Path, plan: Plan) -> None:
    _did(folder)
    try:
        os.kill(plan.victim or os.getpid(), signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself


def _kill_nodes(folder: Path, plan: Plan, paths: str) -> None:
    for number, pattern in enumerate(plan.where):
        if re.search(pattern, paths):
            with suppress(FileExistsError):
                os.close(os.open(folder / f"{_KILLED}{number}", os.O_CREAT | os.O_EXCL))
                raylets = node_raylets()
                for raylet in raylets:
                    os.kill(raylet, signal.SIGKILL)
                if os.getppid() in raylets:
                    os.kill(os.getpid(), signal.SIGKILL)


def _fill_up(folder: Path, plan: Plan, name: str) -> None:
    write = calls(folder)[1]
    if not (write == plan.at or (plan.lasting and write > plan.at > 0)):
        return
    _did(folder)
    if plan.half and name != "move_in":
        # Ends with the next storage call of this process, above.
        resource.setrlimit(resource.RLIMIT_FSIZE, (_HALF_BYTES, resource.RLIM_INFINITY))
        return
    raise OSError(errno.ENOSPC, "No space left on device (injected)")


def _fail(folder: Path, plan: Plan, number: int) -> bool:
    """Delay the call, and perhaps fail it: now, or, where this is true, after its work."""
    chance = random.Random(f"{plan.seed}/{number}")
    time.sleep(chance.choice(_DELAYS_S))
    if not hasattr(_recent, "failed"):
        _recent.failed = deque(maxlen=_CALLS_TOGETHER - 1)
    fails = chance.random() * 100 < plan.percent and sum(_recent.failed) < _FAILURES_TOGETHER
    _recent.failed.append(fails)
    if not fails:
        return False
    _did(folder)
    if chance.random() < 0.5:
        return True
    raise OSError(errno.ESTALE, "injected before the call")
