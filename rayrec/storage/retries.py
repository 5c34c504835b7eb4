"""One retry policy for storage: which errors pass by themselves, how often a call is repeated, and how long between.

A call of a store is repeated by `Storage`; a work item whose calls still failed is repeated by `rayrec.ray_support`.
Repeats wait an exponential time with full jitter (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter),
drawn from a generator of its own, so that no seed of the job changes.
"""

from __future__ import annotations

import errno
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

T = TypeVar("T")

CALLS, WORK_ITEMS = "storage calls", "work items"  # keys of `repeated`

# Of a network, a remote file system, or a store that answers 500 or 503 (s3fs: EREMOTEIO, EBUSY, EIO). A full disk, a
# read-only file system and missing rights are not among them.
_TRANSIENT_ERRNOS = frozenset(
    {
        *(errno.EAGAIN, errno.EBUSY, errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.EPIPE, errno.ETIMEDOUT),
        *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETDOWN, errno.ENETRESET),
        *(errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)
_TRANSIENT_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # 409: a create met a delete of the key
_TRANSIENT_CODES = frozenset({"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "IncompleteBody"})
# By module and name, because a store's client is installed only where it is used.
_TRANSIENT_CLASSES = {
    "botocore.exceptions": {
        *("ConnectionError", "HTTPClientError", "IncompleteReadError", "ResponseStreamingError"),
        "CredentialRetrievalError",
    },
    "botocore.parsers": {"ResponseParserError"},  # half an answer
    "aiohttp.client_exceptions": {"ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError"},
    "urllib3.exceptions": {"IncompleteRead", "ProtocolError", "TimeoutError"},
    "fsspec.exceptions": {"FSTimeoutError"},
    "requests.exceptions": {"ConnectionError", "Timeout", "ChunkedEncodingError"},
    "azure.core.exceptions": {"ServiceRequestError", "ServiceResponseError", "IncompleteReadError"},
    "google.auth.exceptions": {"TransportError"},
    "gcsfs.retry": {"ChecksumError"},
}


@dataclass(frozen=True)
class RetryPolicy:
    """At most `attempts` in all; before repeat k (from 0) at most first_s * 2^k seconds, never above longest_s."""

    attempts: int
    first_s: float
    longest_s: float

    def pause_s(self, repeat: int) -> float:
        return _JITTER.uniform(0, min(self.longest_s, self.first_s * 2**repeat))


CALL_POLICY = RetryPolicy(attempts=4, first_s=0.2, longest_s=5)
WORK_ITEM_POLICY = RetryPolicy(attempts=4, first_s=4, longest_s=60)

_JITTER = random.Random()  # seeded by the system: two workers must not wait equally long
_repeated: Counter[str] = Counter()
_lock = Lock()


def retrying(
    work: Callable[[int], T],
    policy: RetryPolicy,
    kind: str,
    transient: Callable[[Exception], bool],
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """work(attempt), attempts from 0, repeated after a transient error. Raises the last error.

    Every repeat is counted under `kind`.
    """
    for attempt in range(policy.attempts):
        try:
            return work(attempt)
        except Exception as error:
            if attempt + 1 == policy.attempts or not transient(error):
                raise
        add({kind: 1})
        pause(policy.pause_s(attempt))
    raise AssertionError("a policy has at least one attempt")


def add(counts: Mapping[str, int]) -> None:
    """Count repeats, of this process or of another one that reported them."""
    with _lock:
        _repeated.update(counts)


def take() -> dict[str, int]:
    """The repeats of this process since the last call, by kind."""
    with _lock:
        taken = {kind: count for kind, count in _repeated.items() if count}
        _repeated.clear()
    return taken


def is_transient(error: BaseException) -> bool:
    """Whether an error of Python or of a store's client may pass: network, time-out, or an overloaded store.

    The store's own answer decides where there is one: 403 and a missing bucket are permanent.
    """
    chain = list(_chain(error))
    for each in chain:
        if _named_transient(type(each)):  # first: aiohttp's error of half a body has a status, too
            return True
        status, code = _answer(each)
        if status is not None or code:
            return status in _TRANSIENT_STATUSES or code in _TRANSIENT_CODES
    for each in chain:
        if isinstance(each, PermissionError | FileNotFoundError):
            return False
        if isinstance(each, ConnectionError | TimeoutError):
            return True
        if isinstance(each, OSError) and each.errno in _TRANSIENT_ERRNOS:
            return True
    return False


def is_denied(error: BaseException) -> bool:
    """Whether the store refused the credentials, or their rights do not suffice."""
    return any(
        isinstance(each, PermissionError)
        or _answer(each)[0] in (401, 403)
        or (isinstance(each, OSError) and str(each).startswith("Forbidden: "))  # gcsfs
        for each in _chain(error)
    )


def http_status(error: BaseException) -> int | None:
    """The HTTP status of the store's answer, if the error or a cause of it has one."""
    return next((status for each in _chain(error) if (status := _answer(each)[0]) is not None), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _answer(error: BaseException) -> tuple[int | None, str]:
    """HTTP status and error code of a store's answer: of botocore, gcsfs, adlfs or aiohttp."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return (int(status) if status else None), str(response.get("Error", {}).get("Code", ""))
    for name in ("status_code", "status", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int) and 100 <= status < 600:
            return status, ""
    return None, ""


def _named_transient(kind: type[BaseException]) -> bool:
    return any(each.__name__ in _TRANSIENT_CLASSES.get(each.__module__, ()) for each in kind.__mro__)
