"""Copies of remote checkpoints on this machine, each under the digest of its content.

A node may live for months and each night brings checkpoints of its own, so copies that nobody has asked for in days
are deleted, but for the newest few. Whoever asks for a copy marks it as used. Marking and deleting take turns by a lock
on the folder, so a copy is either deleted before it is asked for, and then made again, or it stays for days.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rayrec.errors import DataError

KEPT = 4  # copies that stay however old they are
IDLE_DAYS = 3.0  # an engine reads its files when it starts: after so long nobody is still at it
_STAGED = ".copy-"  # begins the names of copies that are being made, or that were when somebody was killed
_GONE = ".gone-"  # and of those that are being deleted


def default_folder() -> Path:
    """A folder of this user below the temporary directory."""
    return Path(tempfile.gettempdir()) / f"rayrec-models-{os.getuid()}"


def copy_of(name: str, root: Path, copy: Callable[[Path], None]) -> Path:
    """The folder `root`/`name`, filled by `copy` where it is not there. Raises DataError for a root of somebody else.

    Several processes at once are safe: each copies under a name of its own and renames; the first wins.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise DataError(
            "the model cache belongs to somebody else", where=str(root), do="set TMPDIR to a folder of yours"
        )
    target = root / name
    if not _marked(root, target):
        staged = Path(tempfile.mkdtemp(dir=root, prefix=_STAGED))
        try:
            copy(staged)
            _rename_in(root, staged, target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        delete_idle(root)
    return target


def delete_idle(root: Path) -> None:
    """Delete copies, whole or not, that are neither among the newest KEPT nor were asked for in IDLE_DAYS."""
    with _turn(root):
        copies = sorted((path for path in root.iterdir() if not path.name.startswith(".")), key=_used, reverse=True)
        oldest = time.time() - IDLE_DAYS * 86_400
        for path in (*copies[KEPT:], *root.glob(f"{_STAGED}*")):
            if _used(path) < oldest:
                path.rename(root / f"{_GONE}{uuid.uuid4().hex}")
    for path in root.glob(f"{_GONE}*"):
        shutil.rmtree(path, ignore_errors=True)


def _marked(root: Path, target: Path) -> bool:
    """Mark a copy as used now; False where there is none."""
    with _turn(root):
        try:
            os.utime(target)
        except FileNotFoundError:
            return False
    return True


def _rename_in(root: Path, staged: Path, target: Path) -> None:
    with _turn(root):
        os.utime(staged)
        try:
            staged.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same content
                raise


def _used(path: Path) -> float:
    """When, in seconds; a folder that somebody is just taking away is in use."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


@contextmanager
def _turn(root: Path) -> Iterator[None]:
    """One process, or thread, at a time."""
    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
