"""Storage: files under one root, local or remote (any fsspec URL), with two atomic writes.

`write` replaces a file. `create` writes a file only if it is absent; exactly one of several concurrent creators wins.
`create` supports, and is tested with 16 processes on, local file systems (a hard link, which fails if the name exists),
S3 (PUT with If-None-Match), Google Cloud Storage (ifGenerationMatch=0) and Azure Blob Storage (If-None-Match). For
other schemes it raises StorageError, because a non-atomic create could publish a date twice.

Transient errors (network, time-outs, an overloaded store) are retried: see rayrec.storage.retries. What still fails is
a TransientStorageError.

Endpoint and credentials come from the environment (AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ...), never from
the URL.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import BinaryIO, TypeVar, cast

from rayrec.errors import MissingFileError, StorageError, TransientStorageError
from rayrec.storage import layout
from rayrec.storage.backends import FileInfo, LocalBackend
from rayrec.storage.remote_backends import RemoteBackend, remote_backend
from rayrec.storage.retries import CALL_POLICY, CALLS, http_status, is_denied, is_transient, retrying
from rayrec.storage.retrying_reader import RetryingReader
from rayrec.storage_url import check_url

T = TypeVar("T")
_STAGED = re.compile(r"\..+\.tmp|\.probe-[0-9a-f]{32}")


@dataclass(frozen=True)
class Storage:
    """The files under `root`: a folder (made absolute, for workers) or an fsspec URL.

    Paths are relative to the root; `..` and absolute paths are refused. Names that start with a dot are hidden or
    temporary, and never listed. Every failure raises StorageError; a missing file raises MissingFileError.
    """

    root: str

    def __post_init__(self) -> None:
        check_url(self.root)
        root = self.root.removeprefix("file://").removeprefix("local://")
        if "://" not in root:
            object.__setattr__(self, "root", os.path.abspath(os.path.expanduser(root)))
        else:
            object.__setattr__(self, "root", root.rstrip("/"))

    def __getstate__(self) -> dict[str, str]:
        return {"root": self.root}  # without the client: each process opens its own

    @property
    def is_local(self) -> bool:
        return "://" not in self.root

    def url(self, path: str = "") -> str:
        """The absolute path or URL of a file under the root."""
        parts = PurePosixPath(path).parts
        if ".." in parts or path.startswith("/"):
            raise StorageError(f"the path {path!r} leaves the root", where=self.root, hint="use a path below the root")
        return "/".join([self.root.rstrip("/"), *parts]) or "/"

    def exists(self, path: str) -> bool:
        try:
            self.info(path)
        except MissingFileError:
            return False
        return True

    def list(self, prefix: str = "", *, hidden: bool = False) -> list[FileInfo]:
        """All files under the folder (or the file) `prefix`, sorted by path; with `hidden`, hidden ones too."""
        found = self._call(prefix, lambda url, _: list(self._backend.find(url)))
        return sorted((info for info in found if hidden or not _hidden(info.path)), key=lambda info: info.path)

    def folders(self, prefix: str = "") -> Sequence[str]:
        """The folders directly in the folder `prefix` that are not hidden, sorted: one listing, whatever is in them."""
        found = self._call(prefix, lambda url, _: list(self._backend.folders(url)))
        return sorted(f"{prefix}/{name}".lstrip("/") for name in found if not name.startswith("."))

    def hidden(self) -> Sequence[FileInfo]:
        """The files that `list` leaves out, sorted by path: staging files of writers, and what others put there."""
        found = self._call("", lambda url, _: list(self._backend.find(url)))
        return sorted((info for info in found if _hidden(info.path)), key=lambda info: info.path)

    def delete_staging_files(self) -> int:
        """Delete what killed writers left: hidden staging files, and unfinished uploads to S3. Returns their number.

        Not while a job runs: its staging files look the same.
        """
        left = [info.path for info in self.hidden() if _STAGED.fullmatch(info.path.rpartition("/")[2])]
        for path in left:
            self.delete(path)
        return len(left) + self._call("", lambda url, _: self._backend.abort_uploads(url))

    def info(self, path: str) -> FileInfo:
        """Size and version of one file. Raises MissingFileError."""
        return self._call(path, lambda url, _: self._backend.info(url))

    def read(self, path: str) -> bytes:
        """The whole content. Raises MissingFileError."""
        return self._call(path, lambda url, _: self._backend.read(url))

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, in one request. Raises MissingFileError."""
        return self._call(path, lambda url, _: self._backend.read_range(url, start, length))

    def open(self, path: str) -> BinaryIO:
        """A seekable binary reader; the caller closes it. Raises MissingFileError."""
        file = self._call(path, lambda url, _: self._backend.open(url))
        if self.is_local:
            return file
        return cast(BinaryIO, RetryingReader(file, lambda read: self._call(path, lambda url, _: read())))

    def write(self, path: str, data: bytes) -> None:
        """Replace the content atomically: readers see the old or the new."""
        with self.writer(path) as file:
            file.write(data)

    @contextmanager
    def writer(self, path: str) -> Iterator[BinaryIO]:
        """A binary file that replaces `path` atomically when the block ends without an exception."""
        url = self.url(path)
        staged = self._call(path, lambda url, _: self._staging_file(path, url))
        try:
            with open(staged, "wb", opener=_with_mode(layout.file_mode(path))) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            self._call(path, partial(self._backend.move_in, staged))
        except OSError as error:  # for example, the disk is full
            raise _kind(error)(f"cannot write: {error}", where=url) from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(staged)

    def _staging_file(self, path: str, url: str) -> str:
        self._mark_own_folder(path)
        return self._backend.staging_file(url)

    def create(self, path: str, data: bytes) -> bool:
        """Create the file if it is absent: True for exactly one of several creators, False if the file exists.

        A create whose answer was lost is recognised as this call's own. Raises StorageError if the scheme has no atomic
        create.
        """
        creator, attempts = uuid.uuid4().hex, [0]

        def create(url: str, attempt: int) -> bool:
            attempts[0] = attempt
            self._mark_own_folder(path)
            return self._backend.create(url, data, creator, layout.file_mode(path))

        if self._call(path, create):
            return True
        # A local file has no place for its creator's name: after a failed attempt the content decides.
        return self.is_local and attempts[0] > 0 and self.read(path) == data

    def delete(self, path: str) -> None:
        """Delete the file; a missing file is not an error."""
        with suppress(MissingFileError):
            self._call(path, lambda url, _: self._backend.delete(url))

    def require_writable(self) -> None:
        """Raise StorageError unless files can be written."""
        path = f".probe-{uuid.uuid4().hex}"
        self.write(path, b"")
        self.delete(path)

    def require_atomic_create(self) -> None:
        """Raise StorageError unless `create` is atomic: a store that ignores the condition would overwrite."""
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            if not self.create(probe, b"1") or self.create(probe, b"2"):
                raise StorageError(
                    "the store ignores conditional writes, so two runs could both publish",
                    where=self.root,
                    hint="use a store that supports conditional writes, or a local folder for output.root",
                )
        finally:
            self.delete(probe)

    def _mark_own_folder(self, path: str) -> None:
        """Keep a job's folders out of git and of the upload of `ray job submit`, wherever output.root is."""
        if self.is_local and (folder := layout.top_folder(path)) in layout.TOP_FOLDERS:
            ignoring = os.path.join(self.url(folder), ".gitignore")
            if not os.path.exists(ignoring):
                os.makedirs(os.path.dirname(ignoring), exist_ok=True)
                with suppress(FileExistsError), open(ignoring, "x", encoding="utf8") as file:
                    file.write("*\n")

    @cached_property
    def _backend(self) -> LocalBackend | RemoteBackend:
        return LocalBackend(self.root) if self.is_local else remote_backend(self.root)

    def _call(self, path: str, call: Callable[[str, int], T]) -> T:
        """call(url, attempt), retried; errors as StorageErrors."""
        with self._explaining(path):
            url = self.url(path)
            return retrying(lambda attempt: call(url, attempt), CALL_POLICY, CALLS, is_transient)

    @contextmanager
    def _explaining(self, path: str) -> Iterator[None]:
        # Remote clients raise errors of other types (botocore's are not OSErrors).
        failures: type[Exception] = OSError if self.is_local else Exception
        try:
            yield
        except StorageError:
            raise
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise MissingFileError("there is no such file, folder or bucket", where=self.url(path)) from error
        except failures as error:
            if is_denied(error):
                do = "check the rights of the folder" if self.is_local else "check the credentials in the environment"
                raise StorageError(f"access denied: {error}", where=self.url(path), hint=do) from error
            if http_status(error) == 404:
                raise MissingFileError("there is no such file, folder or bucket", where=self.url(path)) from error
            raise _kind(error)(f"storage failed: {type(error).__name__}: {error}", where=self.url(path)) from error


def _kind(error: Exception) -> type[StorageError]:
    return TransientStorageError if is_transient(error) else StorageError


def _with_mode(mode: int) -> Callable[[str, int], int]:
    """An `opener` for `open`: a new file never has more rights than these, not even while it is written."""
    return lambda name, flags: os.open(name, flags, mode)


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)
