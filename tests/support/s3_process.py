"""moto's S3 server, one request at a time: `python s3_process.py` takes a free port and prints its number.

S3's conditional writes are atomic. moto looks first and writes then: on a slow machine two of sixteen racers once got
through between the two. Some buckets fail on purpose: s3_faults.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from s3_faults import FailingS3
from werkzeug.serving import make_server


class OneAtATime:
    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application, self._lock = application, Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            return self._application(environ, start_response)


if __name__ == "__main__":
    server = FailingS3(OneAtATime(DomainDispatcherApplication(create_backend_app)))
    listening = make_server("127.0.0.1", 0, server, threaded=True, request_handler=MotoRequestHandler)
    print(listening.port, flush=True)
    listening.serve_forever()
