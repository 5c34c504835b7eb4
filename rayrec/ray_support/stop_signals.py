"""SIGTERM, SIGINT and SIGHUP end a job within seconds, without temporary folders or processes left behind.

    with handled():
        ...             # a signal raises Stopped in the main thread
    finish(stopped.exit_code)

The main thread may be deep in a library that does not return, and libraries replace signal handlers. Therefore a thread
is told of each signal through `signal.set_wakeup_fd`, and ends the process itself if the main thread does not within a
few seconds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from rayrec.storage import temporary_folders

_END_S = 2.0  # for killed processes to disappear
_GRACE_S = 6.0  # for the main thread to end by itself, after the first signal
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FORKING = threading.local()  # `mask`: the signals blocked before a fork


class Stopped(KeyboardInterrupt):
    """The process received a signal that ends it."""


class _State:
    """What this process was told."""

    active = False
    received: signal.Signals | None = None
    raised = False


def exit_code(received: signal.Signals) -> int:
    """128 + the signal's number, as shells report it: 143 for SIGTERM, 130 for SIGINT."""
    return 128 + int(received)


def received() -> signal.Signals | None:
    """The first signal that asked this process to end; None: none did."""
    return _State.received


@contextmanager
def handled() -> Iterator[None]:
    """Raise Stopped in the main thread on a signal, and end the process if that does not. Main thread only: elsewhere
    it does nothing."""
    if threading.current_thread() is not threading.main_thread() or _State.active:
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _State.active = True
    threading.Thread(target=_watch, args=(reader,), daemon=True, name="stop-signals").start()
    restore()
    try:
        yield
    finally:
        if _State.received is None:  # else the thread stays, to end what follows
            _State.active = False
            signal.set_wakeup_fd(previous)
            os.close(writer)
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _hold() -> None:
    """Before a fork: a child that is signalled at once must not write into this process's pipe."""
    if _State.active:
        _FORKING.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _release() -> None:
    if (mask := getattr(_FORKING, "mask", None)) is not None:
        _FORKING.mask = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget() -> None:
    """In a forked child: its signals are not those of this process."""
    if _State.active:
        _State.active = False
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
    _release()


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forget)


def restore() -> None:
    """Install the handlers (again): `ray.init` replaces that of SIGTERM."""
    if not _State.active or threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
            signal.signal(number, _raise)


def finish(code: int) -> NoReturn:
    """End the process now: its descendants are killed, its temporary folders deleted, nothing else is waited for."""
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    _end(code)


def end_with(message: str, code: int) -> None:
    """As `finish`, from any thread, after printing the message. Does nothing outside of `handled`."""
    if _State.active:
        os.write(2, f"{message}\n".encode())
        _end(code)


def _raise(number: int, frame: object) -> None:
    _State.received = _State.received or signal.Signals(number)  # the thread may have been told before
    if not _State.raised:
        _State.raised = True
        raise Stopped(signal.Signals(number).name)


def _watch(reader: int) -> None:
    """Wait for a signal; then for the process to end, or for a second signal."""
    first: int | None = None
    while first is None:
        told = os.read(reader, 1)
        if not told:
            os.close(reader)
            return  # the block has ended
        first = told[0] if told[0] in _SIGNALS else None
    _State.received = _State.received or signal.Signals(first)
    time.sleep(_GRACE_S)
    name = signal.Signals(first).name
    os.write(2, f"stopped by {name}; run the same command again: it resumes\n".encode())
    _end(exit_code(signal.Signals(first)))


def _end(code: int) -> NoReturn:
    until = time.monotonic() + _END_S
    while time.monotonic() < until and (running := descendants()):  # a process may start another meanwhile
        for pid in running:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)
    temporary_folders.delete_held()
    temporary_folders.delete_abandoned()
    os._exit(code)


def descendants() -> list[int]:
    """The process ids of this process's children and their children; [] where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = list(children.get(os.getpid(), []))
    for pid in found:
        found += children.get(pid, [])
    return found
