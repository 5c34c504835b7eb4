"""Storage backends with one interface: the local file system, and remote stores through fsspec.

Arguments are absolute paths or URLs under the root. A `staging_file` is a new local file, to be written and then moved
to its path. Backends raise errors of Python or of the client; Storage turns them into StorageErrors.
"""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import fsspec

from rayrec.errors import StorageError

_CONDITIONAL_SCHEMES = ("s3", "s3a")
_CONFLICT_RETRIES = 5  # S3 answers 409 if a create meets a delete of the same key
_READ_AHEAD = 8 << 20  # bytes; s3fs' default of 50 MiB is more than a parquet column needs


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

    def move_in(self, staged: str, url: str) -> None:
        os.replace(staged, url)
        _sync_folder(url)

    def create(self, url: str, data: bytes) -> bool:
        staged = self.staging_file(url)
        try:
            with open(staged, "xb") as file:
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
                    hint="use another local folder or s3:// for output.root",
                ) from error
            _sync_folder(url)
            return True
        finally:
            with suppress(FileNotFoundError):
                os.unlink(staged)

    def delete(self, url: str) -> None:
        os.unlink(url)


class RemoteBackend:
    def __init__(self, root: str) -> None:
        # A cached listing would hide newer files of other processes.
        self._fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False)
        self._prefix = str(path).rstrip("/") + "/"
        self._scheme = root.partition("://")[0]

    def find(self, url: str) -> Iterator[FileInfo]:
        try:
            found: dict[str, dict[str, Any]] = self._fs.find(url, detail=True)
        except FileNotFoundError:
            return
        for details in found.values():
            if details["type"] == "file":
                yield self._file_info(details)

    def info(self, url: str) -> FileInfo:
        details = self._fs.info(url)
        if details["type"] != "file":
            raise IsADirectoryError(url)
        return self._file_info(details)

    def _file_info(self, details: dict[str, Any]) -> FileInfo:
        named = (str(details[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if details.get(key))
        path = str(details["name"]).removeprefix(self._prefix)
        return FileInfo(path, int(details["size"] or 0), next(named, "").strip('"'))

    def read(self, url: str) -> bytes:
        return cast(bytes, self._fs.cat_file(url))

    def read_range(self, url: str, start: int, length: int) -> bytes:
        return cast(bytes, self._fs.cat_file(url, start=start, end=start + length))

    def open(self, url: str) -> BinaryIO:
        return cast(BinaryIO, self._fs.open(url, "rb", block_size=_READ_AHEAD))

    def staging_file(self, url: str) -> str:
        handle, path = tempfile.mkstemp(prefix="rayrec-")
        os.close(handle)
        return path

    def move_in(self, staged: str, url: str) -> None:
        self._fs.put_file(staged, url)

    def create(self, url: str, data: bytes) -> bool:
        if self._scheme not in _CONDITIONAL_SCHEMES:
            raise StorageError(
                f"{self._scheme}:// is not known to create files atomically, so two runs could both publish",
                where=url,
                hint="use a local folder or s3:// for output.root",
            )
        for _ in range(_CONFLICT_RETRIES):
            try:
                self._fs.pipe_file(url, data, mode="create")
                return True
            except OSError as error:
                status = _http_status(error)
                if status == 412:
                    return False
                if status != 409:
                    raise
        raise StorageError("the store keeps answering 409 (conflict) to a conditional create", where=url)

    def delete(self, url: str) -> None:
        self._fs.rm_file(url)


def _http_status(error: OSError) -> int | None:
    response: dict[str, Any] = getattr(error.__cause__, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(status) if status else None


def _sync_folder(url: str) -> None:
    folder = os.open(os.path.dirname(url), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
