"""Options of the S3 client: time-outs, retries within a call, and attempts to get an instance's credentials."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from rayrec.storage.retries import CALLS, add

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60  # between two pieces of a body, too
_ATTEMPTS = 3  # of one call, within botocore; Storage repeats the call

# botocore asks the instance's metadata service once and for one second; a busy node then has "no credentials".
_METADATA = {
    "metadata_service_num_attempts": ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", 5),
    "metadata_service_timeout": ("AWS_METADATA_SERVICE_TIMEOUT", 5),
}


def client_options() -> dict[str, Any]:
    """Keyword arguments of s3fs.S3FileSystem. The environment's AWS_RETRY_MODE, AWS_MAX_ATTEMPTS and
    AWS_METADATA_SERVICE_* win over ours."""
    retries: dict[str, Any] = {}
    if "AWS_RETRY_MODE" not in os.environ:
        retries["mode"] = "adaptive"  # also slows down where the store answers SlowDown
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = _ATTEMPTS
    config = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S, "retries": retries}
    return {"session": _session(), "config_kwargs": config}


@lru_cache(maxsize=1)
def _session() -> Any:
    """One session a process: s3fs takes equal arguments for the same client."""
    from aiobotocore.session import get_session

    session = get_session()
    for name, (variable, value) in _METADATA.items():
        if variable not in os.environ:
            session.set_config_variable(name, value)
    session.register("response-received.s3", _count_repeat)
    return session


def _count_repeat(context: dict[str, Any] | None = None, **_: Any) -> None:
    """Called by botocore after each attempt of a call."""
    if context and context.get("retries", {}).get("attempt", 1) > 1:
        add({CALLS: 1})
