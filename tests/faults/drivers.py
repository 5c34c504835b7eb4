"""Runs as processes that may die: forked from a server that has imported everything, so that each starts at once."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import storage_faults
from waiting import PATIENCE_S

_STACKS = ".stacks"  # where a driver that hangs is, all threads
_STACKS_S = 5.0
_PRELOADED = ("one_process", "tiny_runs", "storage_faults", "jobs.daily", "jobs.evaluate", "jobs.forget")


@dataclass(frozen=True)
class Ended:
    """How a driver ended: `status` of the process, the class of the error, and its text or traceback."""

    status: int
    error: str = ""
    text: str = ""

    @property
    def was_killed(self) -> bool:
        return self.status < 0


@dataclass(frozen=True)
class Driver:
    process: BaseProcess
    said: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait(self, timeout_s: float = PATIENCE_S) -> Ended:
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            os.kill(self.pid, signal.SIGUSR1)
            self.process.join(_STACKS_S)
            self.process.kill()
            self.process.join()
            stacks = self.said.with_suffix(_STACKS)
            return Ended(1, "Hang", f"no end within {timeout_s:g} s\n{stacks.read_text() if stacks.exists() else ''}")
        said = json.loads(self.said.read_text()) if self.said.exists() else {}
        return Ended(self.process.exitcode, **said)


def start(work: Callable[..., None], *arguments: Any, folder: Path, environment: Mapping[str, str]) -> Driver:
    """work(*arguments) in a new process with the environment's variables; what it raises is told in `folder`."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(list(_PRELOADED))
    folder.mkdir(parents=True, exist_ok=True)
    said = folder / f"ended-{os.urandom(4).hex()}.json"
    process = processes.Process(target=_child, args=(work, arguments, said, dict(environment)))
    process.start()
    return Driver(process, said)


def _child(work: Callable[..., None], arguments: tuple[Any, ...], said: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    stacks = said.with_suffix(_STACKS).open("w")
    faulthandler.register(signal.SIGUSR1, stacks)
    from rayrec.errors import RayrecError
    from rayrec.storage import backends, remote_backends

    for module in (backends, remote_backends):
        storage_faults.install(module)
    try:
        work(*arguments)
    except BaseException as error:
        from rayrec.errors import user_error

        known = user_error(error)
        text = str(known) if known is not None else traceback.format_exc()
        os.environ.pop(storage_faults.CONTROL, None)
        storage_faults.lift_limit()
        said.write_text(json.dumps({"error": type(known or error).__name__, "text": text}))
        os._exit(known.exit_code if isinstance(known, RayrecError) else 1)
    os._exit(0)
