"""Storage backends with one interface: the local file system, and remote stores through fsspec.

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
from typing import Any, BinaryIO, cast

import fsspec

from rayrec.errors import StorageError
from rayrec.storage import temporary_folders
from rayrec.storage.retries import http_status
from rayrec.storage.s3_client import client_options

_CONDITIONAL_SCHEMES = ("s3", "s3a")
_CREATOR = "rayrec-creator"  # key of an object's metadata
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
                    hint="use another local folder or s3:// for output.root",
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


class RemoteBackend:
    def __init__(self, root: str) -> None:
        # A cached listing would hide newer files of other processes.
        self._scheme = root.partition("://")[0]
        options = client_options() if self._scheme in _CONDITIONAL_SCHEMES else {}
        self._fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False, **options)
        if options:
            self._fs.retries = 1  # Storage and botocore retry; a third loop would multiply the waits
        self._prefix = str(path).rstrip("/") + "/"

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
        return str(temporary_folders.process_folder() / uuid.uuid4().hex)

    def move_in(self, staged: str, url: str, attempt: int = 0) -> None:
        self._fs.put_file(staged, url)

    def create(self, url: str, data: bytes, creator: str = "", mode: int = 0o666) -> bool:
        """Create the file if it is absent. `creator`: unique to the call, stored as the object's metadata.

        By it an attempt whose answer was lost is recognised when a repeat, of ours or of the client, finds the file.
        `mode` is for local files: the rights of an object are those of its bucket.
        """
        if self._scheme not in _CONDITIONAL_SCHEMES:
            raise StorageError(
                f"{self._scheme}:// is not known to create files atomically, so two runs could both publish",
                where=url,
                hint="use a local folder or s3:// for output.root",
            )
        try:
            self._fs.pipe_file(url, data, mode="create", Metadata={_CREATOR: creator})
            return True
        except OSError as error:
            if http_status(error) != 412:
                raise
        try:
            return bool(creator) and self._fs.metadata(url).get(_CREATOR) == creator
        except FileNotFoundError:
            return False  # the other creator's file is deleted again

    def delete(self, url: str) -> None:
        self._fs.rm_file(url)

    def abort_uploads(self, url: str) -> int:
        """Abort unfinished uploads below the URL, whose parts a listing does not show; return their number."""
        if self._scheme not in ("s3", "s3a"):
            return 0
        bucket, _, folder = self._fs._strip_protocol(url).partition("/")
        uploads = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=folder).get("Uploads", [])
        for each in uploads:
            self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"])
        return len(uploads)


def _sync_folder(url: str) -> None:
    folder = os.open(os.path.dirname(url), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
