"""Remote stores as storage backends, through fsspec: S3, Google Cloud Storage, Azure Blob Storage, and others.

Only the first three create a file conditionally: S3 by If-None-Match, Google by ifGenerationMatch=0, Azure by
If-None-Match. The name of the creator is stored as the object's metadata. By it an attempt whose answer was lost is
recognised when a repeat, of ours or of the client, finds the file.

Endpoints and credentials come from the environment alone.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, ClassVar, cast

import fsspec
import fsspec.asyn

from rayrec.errors import StorageError
from rayrec.storage import temporary_folders
from rayrec.storage.backends import FileInfo
from rayrec.storage.retries import http_status
from rayrec.storage.s3_client import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, client_options

_READ_AHEAD = 8 << 20  # bytes; the clients' default of up to 50 MiB is more than a parquet column needs


class RemoteBackend:
    """A store of any scheme, without conditional creates."""

    extra: ClassVar[str] = ""  # of rayrec's packages: what installs the client

    def __init__(self, root: str) -> None:
        try:
            self._fs, path = self._connect(root)
        except ImportError as error:
            raise StorageError(
                f"the client of {root.partition('://')[0]}:// is not installed: {error}",
                where=root,
                hint=f'pip install "rayrec[{self.extra}]"' if self.extra else "install the client of this store",
            ) from error
        self._prefix = str(path).rstrip("/") + "/"

    def _connect(self, root: str) -> tuple[Any, str]:
        # A cached listing would hide newer files of other processes.
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(root, use_listings_cache=False))

    def find(self, url: str) -> Iterator[FileInfo]:
        try:
            found: dict[str, dict[str, Any]] | list[str] = self._fs.find(url, detail=True)
        except FileNotFoundError:
            return
        if isinstance(found, list):  # adlfs, where the URL is that of a file
            found = {path: self._fs.info(path) for path in found}
        for details in found.values():
            if details["type"] == "file":
                yield self._file_info(details)

    def folders(self, url: str) -> Iterator[str]:
        """The names of the folders directly in a folder."""
        with suppress(FileNotFoundError, NotADirectoryError):
            for details in self._fs.ls(url, detail=True):
                if details["type"] == "directory":
                    yield str(details["name"]).rstrip("/").rpartition("/")[2]

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
        """Create the file if it is absent. `creator`: unique to the call.

        `mode` is for local files: the rights of an object are those of its bucket.
        """
        raise StorageError(
            f"{url.partition('://')[0]}:// is not known to create files atomically, so two runs could both publish",
            where=url,
            hint="use a local folder, s3://, gs:// or az:// for output.root",
        )

    def delete(self, url: str) -> None:
        self._fs.rm_file(url)

    def abort_uploads(self, url: str) -> int:
        """Abort unfinished uploads below the URL, whose parts a listing does not show; return their number.

        Google's and Azure's show in no listing either; the stores delete them after a week.
        """
        return 0


class S3Backend(RemoteBackend):
    def _connect(self, root: str) -> tuple[Any, str]:
        fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False, **client_options())
        fs.retries = 1  # Storage and botocore retry; a third loop would multiply the waits
        return fs, path

    def create(self, url: str, data: bytes, creator: str = "", mode: int = 0o666) -> bool:
        try:
            self._fs.pipe_file(url, data, mode="create", Metadata={"rayrec-creator": creator})
            return True
        except OSError as error:
            if http_status(error) != 412:
                raise
        try:
            return bool(creator) and self._fs.metadata(url).get("rayrec-creator") == creator
        except FileNotFoundError:
            return False  # the other creator's file is deleted again

    def abort_uploads(self, url: str) -> int:
        bucket, _, folder = self._fs._strip_protocol(url).partition("/")
        uploads = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=folder).get("Uploads", [])
        for each in uploads:
            self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"])
        return len(uploads)


class GoogleBackend(RemoteBackend):
    """Credentials: Application Default Credentials. STORAGE_EMULATOR_HOST names another endpoint, without any."""

    extra = "gcs"

    def _connect(self, root: str) -> tuple[Any, str]:
        from aiohttp import ClientTimeout

        # Not gcsfs.GCSFileSystem, which asks a second API over gRPC for the kind of each bucket.
        from gcsfs.core import GCSFileSystem

        fs = GCSFileSystem(
            # Its default would also look for tokens in the home folder, and go on without any.
            token="anon" if os.environ.get("STORAGE_EMULATOR_HOST") else "google_default",
            requests_timeout=ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S),
            use_listings_cache=False,
        )
        return fs, fs._strip_protocol(root)

    def create(self, url: str, data: bytes, creator: str = "", mode: int = 0o666) -> bool:
        try:
            self._fs.pipe_file(url, data, mode="create", metadata={"rayrec-creator": creator})
            return True
        except FileExistsError:
            return bool(creator) and self._creator(url) == creator  # the answer of an own create was lost

    def _creator(self, url: str) -> str | None:
        """Who created the object; None where it does not say, or is gone."""
        try:
            name: str | None = (self._fs.info(url).get("metadata") or {}).get("rayrec-creator")
            return name
        except FileNotFoundError:
            return None


class AzureBackend(RemoteBackend):
    """Account and credentials: AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME (or the URL's account)
    and a key, a SAS token, a service principal, or azure-identity's default chain (workload identity)."""

    extra = "azure"

    def _connect(self, root: str) -> tuple[Any, str]:
        try:
            return super()._connect(root)
        except ValueError as error:
            # Without the cause, which may quote the connection string.
            raise StorageError(
                "no usable Azure storage account is named",
                where=root,
                hint="set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING in the environment",
            ) from (error if isinstance(error.__cause__, ImportError) else None)

    def create(self, url: str, data: bytes, creator: str = "", mode: int = 0o666) -> bool:
        from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

        container, path, _ = self._fs.split_path(url)

        async def attempt() -> bool:
            # adlfs' own pipe_file takes no metadata. A key of it is an identifier: no hyphen.
            async with self._fs.service_client.get_blob_client(container, path) as blob:
                metadata = {"is_directory": "false", "rayrec_creator": creator}
                try:
                    await blob.upload_blob(data, overwrite=False, metadata=metadata)
                except ResourceExistsError:
                    # The answer of an own create may have been lost.
                    return bool(creator) and await created_by(blob) == creator
            return True

        async def created_by(blob: Any) -> str | None:
            """Who created the object; None where it does not say, or is gone."""
            try:
                name: str | None = ((await blob.get_blob_properties()).metadata or {}).get("rayrec_creator")
                return name
            except ResourceNotFoundError:
                return None

        return cast(bool, fsspec.asyn.sync(self._fs.loop, attempt))


_BACKENDS: dict[str, type[RemoteBackend]] = {
    **dict.fromkeys(("s3", "s3a"), S3Backend),
    **dict.fromkeys(("gs", "gcs"), GoogleBackend),
    **dict.fromkeys(("az", "abfs", "abfss"), AzureBackend),
}


def remote_backend(root: str) -> RemoteBackend:
    """The backend of a URL, by its scheme."""
    return _BACKENDS.get(root.partition("://")[0], RemoteBackend)(root)
