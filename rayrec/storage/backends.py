"""The local file system as a storage backend; rayrec.storage.remote_backends has the same interface.

Arguments are absolute paths or URLs under the root. A `staging_file` is a new local file, to be written and then moved
to its path. Backends raise errors of Python or of the client; Storage turns them into StorageErrors.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from rayrec.errors import StorageError


@dataclass(frozen=True)
class FileInfo:
    """A listed file. `version` changes with the content: an ETag, or the mtime in ns."""

    path: str  # relative to the root, with forward slashes
    size: int  # bytes
    version: str


class LocalBackend:
    def __init__(self, root: str) -> None:
        self._root = root

    def find(self, url: str) -> Iterator[FileInfo]:
        if os.path.isfile(url):
            yield self.info(url)
        elif os.path.isdir(url):
            yield from self._walk(url, frozenset())

    def folders(self, url: str) -> Iterator[str]:
        """The names of the folders directly in a folder."""
        with suppress(FileNotFoundError, NotADirectoryError):
            yield from (entry.name for entry in os.scandir(url) if entry.is_dir())

    def _walk(self, folder: str, above: frozenset[str]) -> Iterator[FileInfo]:
        above = above | {os.path.realpath(folder)}
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return  # deleted since its parent was listed
        for entry in entries:
            if entry.is_dir():
                if os.path.realpath(entry.path) not in above:  # a link to a parent would recurse forever
                    yield from self._walk(entry.path, above)
                continue
            with suppress(FileNotFoundError):
                yield self.info(entry.path)

    def info(self, url: str) -> FileInfo:
        if os.path.isdir(url):
            raise IsADirectoryError(url)
        stat = os.stat(url)
        return FileInfo(os.path.relpath(url, self._root).replace(os.sep, "/"), stat.st_size, str(stat.st_mtime_ns))

    def read(self, url: str) -> bytes:
        with open(url, "rb") as file:
            return file.read()

    def read_range(self, url: str, start: int, length: int) -> bytes:
        with open(url, "rb") as file:
            file.seek(start)
            return file.read(length)

    def open(self, url: str) -> BinaryIO:
        return open(url, "rb")

    def staging_file(self, url: str) -> str:
        folder, name = os.path.split(url)
        os.makedirs(folder, exist_ok=True)
        return os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")

    def move_in(self, staged: str, url: str, attempt: int = 0) -> None:
        """Move the staged file to its path. `attempt` > 0: an earlier one failed, perhaps after the move."""
        if attempt == 0 or os.path.exists(staged):
            os.replace(staged, url)
        _sync_folder(url)

    def create(self, url: str, data: bytes, creator: str = "", mode: int = 0o666) -> bool:
        staged = self.staging_file(url)
        try:
            with open(staged, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(staged, url)
            except FileExistsError:
                # NFS may retry a link that succeeded: a link count of two means that this create won.
                return os.stat(staged).st_nlink > 1
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise
                raise StorageError(
                    "this file system has no hard links, so a file cannot be created atomically",
                    where=url,
                    hint="use another local folder, s3://, gs:// or az:// for output.root",
                ) from error
            _sync_folder(url)
            return True
        finally:
            with suppress(FileNotFoundError):
                os.unlink(staged)

    def delete(self, url: str) -> None:
        os.unlink(url)

    def abort_uploads(self, url: str) -> int:
        return 0


def _sync_folder(url: str) -> None:
    folder = os.open(os.path.dirname(url), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
