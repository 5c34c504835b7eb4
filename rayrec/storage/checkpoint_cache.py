"""A node's cache of remote checkpoints, keyed by content digest.

A node may live for months while every run has its own checkpoints, so copies not used for days are deleted, except the
newest few. Using a copy marks it. A lock on the folder makes marking and deleting mutually exclusive.

The folder's name is predictable and the temporary directory is shared: a symlink there would redirect the deletions. So
the folder must be a real one that only this user can enter, and only files named like copies are deleted.
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

MIN_CACHED_COPIES = 4  # never deleted
IDLE_DAYS = 3.0  # an engine reads its files only when it starts
_COPY = re.compile("[0-9a-f]{16}")  # name of a copy: a rayrec.numerics.hashing.digest
_STAGED = ".copy-"  # prefix of unfinished copies, also those of killed processes
_GONE = ".gone-"  # prefix of copies that are being deleted
_FILLING = ".filling-"  # prefix of files that are locked while their copy is made

Fill = Callable[[Path], None]
"""Fills an empty folder."""


def default_folder() -> Path:
    """A folder of this user below the temporary directory."""
    return Path(tempfile.gettempdir()) / f"rayrec-models-{os.getuid()}"


def node_folder(name: str) -> Path:
    """A folder beside the copies, which no cleaning deletes. Raises DataError as `cached_copy`."""
    _own(default_folder())
    folder = default_folder() / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def cached_copy(name: str, root: Path, copy: Fill) -> Path:
    """The folder `root`/`name`, filled by `copy` if it does not exist; `name`: 16 hex digits.

    Safe for concurrent processes: one fills a temporary folder and renames it, while the others wait. Raises DataError
    if the root is not a folder of this user alone.
    """
    _own(root)
    target = root / name
    if not _marked(root, target):
        with _filling(root / f"{_FILLING}{name}"):
            _fill(root, target, copy)
    return target


def _fill(root: Path, target: Path, copy: Fill) -> None:
    if not _marked(root, target):  # another process made it meanwhile
        staged = Path(tempfile.mkdtemp(dir=root, prefix=_STAGED))
        try:
            copy(staged)
            _rename_in(root, staged, target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        delete_idle(root)


def delete_idle(root: Path) -> None:
    """Delete copies not used in IDLE_DAYS, except the newest MIN_CACHED_COPIES, and unfinished ones."""
    with _lock(root):
        copies = sorted((path for path in root.iterdir() if _COPY.fullmatch(path.name)), key=_used, reverse=True)
        oldest = time.time() - IDLE_DAYS * 86_400
        for path in (*copies[MIN_CACHED_COPIES:], *root.glob(f"{_STAGED}*")):
            if _used(path) < oldest:
                path.rename(root / f"{_GONE}{uuid.uuid4().hex}")
    for path in root.glob(f"{_GONE}*"):
        shutil.rmtree(path, ignore_errors=True)


def _own(root: Path) -> None:
    """Create or check the folder. In a sticky directory such as /tmp no other user can replace it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise DataError(
            "the model cache is a link, or another user can access it",
            where=str(root),
            hint="remove it, or set TMPDIR to a folder of your own",
        )


@contextmanager
def _filling(path: Path) -> Iterator[None]:
    """One process at a time. Whoever comes when the file has just been deleted makes a copy of its own, which loses."""
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _marked(root: Path, target: Path) -> bool:
    """Mark a copy as used now; False if there is none."""
    with _lock(root):
        try:
            os.utime(target)
        except FileNotFoundError:
            return False
    return True


def _rename_in(root: Path, staged: Path, target: Path) -> None:
    with _lock(root):
        os.utime(staged)
        try:
            staged.rename(target)
        except OSError:
            if not target.is_dir():  # else another process made the same copy first
                raise


def _used(path: Path) -> float:
    """Time of last use in seconds; inf for a copy that is being renamed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """A lock on the folder, for processes and threads."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
