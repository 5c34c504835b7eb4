"""An S3 that fails: a layer in front of moto's application, for the buckets whose name asks for it.

A bucket `faults-<percent>-<seed>` answers that share of its requests wrongly; seed and number of the request decide
which and how. `GET /_faults/<bucket>` says how many of each kind there were.
"""

from __future__ import annotations

import json
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

KINDS = ("500", "503", "reset", "lost answer", "truncated", "slow")
_BUCKET = re.compile(r"faults-(\d+)-(\d+)[a-z-]*")
_ERRORS = {"500": ("500 Internal Server Error", "InternalError"), "503": ("503 Slow Down", "SlowDown")}
_PIECES, _PIECE_S = 4, 0.02  # of a slow body


def bucket(percent: int, seed: int, name: str = "") -> str:
    """`name`: lower-case letters, for two buckets with the same faults."""
    return f"faults-{percent}-{seed}{f'-{name}' if name else ''}"


class FailingS3:
    """Passes requests on to the application, some with a fault."""

    def __init__(self, application: Application) -> None:
        self._application, self._lock = application, Lock()
        self._requests, self._injected = Counter[str](), dict[str, Counter[str]]()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        first, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
        if first == "_faults":
            return self._said(key, start_response)
        kind = self._kind(first) if key or environ["REQUEST_METHOD"] != "PUT" else ""  # a bucket is made without faults
        if not kind:
            return self._application(environ, start_response)
        connection: socket.socket = environ["werkzeug.socket"]
        if kind in _ERRORS:
            status, code = _ERRORS[kind]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        if kind == "reset":
            _drop(connection)
        answer: list[Any] = []
        body = b"".join(self._application(environ, lambda *said: answer.extend(said)))
        if kind == "lost answer" or (kind == "truncated" and not body):
            _drop(connection)
        start_response(*answer)
        return _truncated(body, connection) if kind == "truncated" else _slow(body)

    def _kind(self, bucket: str) -> str:
        """The fault of this request, or nothing."""
        asked = _BUCKET.fullmatch(bucket)
        if asked is None:
            return ""
        with self._lock:
            self._requests[bucket] += 1
            chance = random.Random(f"{asked[2]}/{self._requests[bucket]}")
            if chance.random() * 100 >= int(asked[1]):
                return ""
            kind = chance.choice(KINDS)
            self._injected.setdefault(bucket, Counter())[kind] += 1
            return kind

    def _said(self, bucket: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            body = json.dumps({"requests": self._requests[bucket], **self._injected.get(bucket, {})}).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def _drop(connection: socket.socket) -> None:
    """End the connection without an answer; the server takes the error for a client that went away."""
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("injected")


def _truncated(body: bytes, connection: socket.socket) -> Iterable[bytes]:
    yield body[: len(body) // 2]
    _drop(connection)


def _slow(body: bytes) -> Iterable[bytes]:
    size = max(1, -(-len(body) // _PIECES))
    for start in range(0, len(body), size):
        time.sleep(_PIECE_S)
        yield body[start : start + size]
