"""Temporary folders of jobs: private to their user, and deleted when their process is gone, however it ended.

A folder `rayrec-…` below the temporary directory holds a lock file that its process keeps locked as long as it lives.
A folder whose lock is free was left by a killed process; it may hold rows of users: staging files, Ray's spilled
objects and logs, unfinished checkpoints.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "rayrec-"
_LOCK = ".lock"
_KEPT = f"{PREFIX}models-"  # the checkpoint cache, which has rules of its own
_ABANDONED_S = 86_400.0  # age of a file or folder without a lock file that no process has open

_held: dict[str, int] = {}  # folder -> descriptor of its locked file
_of_process: dict[int, Path] = {}  # process id -> its folder


def new_folder(parent: str | None = None) -> Path:
    """A new folder with rights 0700, locked until `delete_folder` or the end of this process."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _held[str(folder)] = lock
    return folder


def delete_folder(folder: Path) -> None:
    """Delete a folder of `new_folder`; files that other processes still write into it are no error."""
    shutil.rmtree(folder, ignore_errors=True)
    if (lock := _held.pop(str(folder), None)) is not None:
        os.close(lock)


def delete_held() -> None:
    """Delete every folder of this process, which is about to end."""
    for folder in list(_held):
        delete_folder(Path(folder))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new, empty folder for the block."""
    folder = new_folder()
    try:
        files = folder / "files"  # beside the lock file, which is not for copying
        files.mkdir()
        yield files
    finally:
        delete_folder(folder)


def process_folder() -> Path:
    """The folder of this process, for short-lived files; made on the first call."""
    folder = _of_process.get(os.getpid())  # a forked child needs its own
    if folder is None or not folder.is_dir():
        atexit.register(delete_process_folder)
        folder = _of_process[os.getpid()] = new_folder()
    return folder


def delete_process_folder() -> None:
    if (folder := _of_process.pop(os.getpid(), None)) is not None:
        delete_folder(folder)


def abandoned(min_age_s: float = _ABANDONED_S) -> list[Path]:
    """What killed processes of this user left in the temporary directory.

    `min_age_s`, seconds: age from which something without a lock file counts (an older version made it, or its process
    died before it could lock it), if no running process has it open or names it.
    """
    found, unlocked = [], []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        with suppress(OSError):
            status = path.lstat()
            whole = stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)
            if path.name.startswith(_KEPT) or status.st_uid != os.getuid() or not whole:
                continue
            if (path / _LOCK).exists():
                found += [path] if _is_free(path / _LOCK) else []
            elif time.time() - status.st_mtime >= min_age_s:
                unlocked.append(path)
    if unlocked:
        used = _used_by_processes()
        found += [path for path in unlocked if not any(name == str(path) or f"{path}/" in name for name in used)]
    return sorted(found)


def delete_abandoned(min_age_s: float = _ABANDONED_S) -> list[str]:
    """Delete what `abandoned` finds; return the paths that are gone."""
    gone = []
    for path in abandoned(min_age_s):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        gone += [] if path.exists() else [str(path)]
    return gone


def in_use() -> list[Path]:
    """The locked folders of running processes of this user, except this one."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        with suppress(OSError):
            own = str(path) in _held or path.lstat().st_uid != os.getuid()
            found += [path] if not own and (path / _LOCK).exists() and not _is_free(path / _LOCK) else []
    return found


def _is_free(lock: Path) -> bool:
    opened = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(opened)
    return True


def _used_by_processes() -> set[str]:
    """Paths that running processes have open, and their command lines. Empty where there is no /proc."""
    used = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            used.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            used.add(os.readlink(process / "cwd"))
            for opened in (process / "fd").iterdir():
                with suppress(OSError):  # closed meanwhile
                    used.add(os.readlink(opened))
    return used
