"""Copies of remote checkpoints on this machine, each under the digest of its content.

A node may live for months and each night brings checkpoints of its own, so copies that nobody has asked for in days
are deleted, but for the newest few. Whoever asks for a copy marks it as used. Marking and deleting take turns by a lock
on the folder, so a copy is either deleted before it is asked for, and then made again, or it stays for days.

The folder's name can be guessed and the temporary directory is everybody's: a link that somebody has put there would
have these deletions go wherever it leads. So the folder must be a real one that only this user can enter, and nothing
in it is deleted but what is named as copies are.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rayrec.errors import DataError

MIN_CACHED_COPIES = 4  # copies that stay however old they are
IDLE_DAYS = 3.0  # an engine reads its files when it starts: after so long nobody is still at it
_COPY = re.compile("[0-9a-f]{16}")  # a copy's name: a rayrec.numerics.hashing.digest
_STAGED = ".copy-"  # begins the names of copies that are being made, or that were when somebody was killed
_GONE = ".gone-"  # and of those that are being deleted


def default_folder() -> Path:
    """A folder of this user below the temporary directory."""
    return Path(tempfile.gettempdir()) / f"rayrec-models-{os.getuid()}"


def cached_copy(name: str, root: Path, copy: Callable[[Path], None]) -> Path:
    """The folder `root`/`name`, filled by `copy` where it is not there; `name`: 16 hex digits.

    Several processes at once are safe: each copies under a name of its own and renames; the first wins. Raises
    DataError for a root that is not a folder of this user alone.
    """
    _own(root)
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
        copies = sorted((path for path in root.iterdir() if _COPY.fullmatch(path.name)), key=_used, reverse=True)
        oldest = time.time() - IDLE_DAYS * 86_400
        for path in (*copies[MIN_CACHED_COPIES:], *root.glob(f"{_STAGED}*")):
            if _used(path) < oldest:
                path.rename(root / f"{_GONE}{uuid.uuid4().hex}")
    for path in root.glob(f"{_GONE}*"):
        shutil.rmtree(path, ignore_errors=True)


def _own(root: Path) -> None:
    """The folder, made where there is none. In a sticky one, as /tmp is, nobody else can put another in its place."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise DataError(
            "the model cache is not a folder of yours alone: it is a link, somebody else's, or open to others",
            where=str(root),
            hint="remove it, or set TMPDIR to a folder of yours",
        )


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
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
