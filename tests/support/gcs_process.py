"""A server of Google Cloud Storage's JSON API: `python gcs_process.py BUCKET CARELESS` takes a free port and prints it.

It is gcp-storage-emulator, which answers one request at a time, with the one thing added that it lacks: an upload with
ifGenerationMatch=0 fails with 412 where the object exists. Like the store, it looks at the end of an upload in pieces.
The second bucket is the emulator as it is.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from http import HTTPStatus
from http.server import HTTPServer
from typing import Any

from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

_CONDITION = "ifGenerationMatch"


class PreconditionFailed(Exception):
    pass


class ConditionalStorage(Storage):  # type: ignore[misc]
    """Refuses to replace an object while a request is under the condition that there is none."""

    only_new = False
    careless = ""

    def create_file(self, bucket_name: str, file_name: str, *more: Any, **named: Any) -> Any:
        if self.only_new and file_name in self.objects.get(bucket_name, {}):
            raise PreconditionFailed
        return super().create_file(bucket_name, file_name, *more, **named)


class ConditionalHandler(RequestHandler):  # type: ignore[misc]
    def do_POST(self) -> None:
        self._conditionally(super().do_POST)

    def do_PUT(self) -> None:
        self._conditionally(super().do_PUT)

    def _conditionally(self, handle: Any) -> None:
        self.storage.only_new = f"{_CONDITION}=0" in self.path and f"/b/{self.storage.careless}/" not in self.path
        try:
            handle()
        except PreconditionFailed:
            self.send_response(HTTPStatus.PRECONDITION_FAILED)
            self.send_header("Content-Length", "0")
            self.end_headers()
        finally:
            self.storage.only_new = False


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    storage = ConditionalStorage(use_memory_fs=True)
    for name in sys.argv[1:]:
        buckets.create_bucket(name, storage)
    storage.careless = sys.argv[2]
    server = HTTPServer(("127.0.0.1", 0), partial(ConditionalHandler, storage))
    print(server.server_address[1], flush=True)
    server.serve_forever()
