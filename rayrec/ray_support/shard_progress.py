"""How far shards in work are: their actors write it into Ray's key-value store, which the driver reads.

    with heard("score 0123", status.reached): ...     # driver
    tell("score 0123", shard, users)                  # actor

Nothing of it is needed: where the store does not answer, only the numbers between two finished shards are missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import ray
from ray.experimental import internal_kv

_EVERY_S = 5.0
_NAMESPACE = b"rayrec"


def tell(stage: str, shard: int, users: int) -> None:
    """So many users of the shard are done."""
    if ray.is_initialized():
        with suppress(Exception):
            internal_kv._internal_kv_put(_prefix(stage) + str(shard).encode(), str(users), namespace=_NAMESPACE)


def told(stage: str) -> int:
    """The users of all shards that were told of."""
    keys = internal_kv._internal_kv_list(_prefix(stage), namespace=_NAMESPACE)
    found = (internal_kv._internal_kv_get(key, namespace=_NAMESPACE) for key in keys)
    return sum(int(value) for value in found if value)


@contextmanager
def heard(stage: str, hear: Callable[[int], None], every_s: float = _EVERY_S) -> Iterator[None]:
    """Call `hear` with `told(stage)` every few seconds, on a thread, while the block runs."""
    if not ray.is_initialized():
        yield
        return
    ended = threading.Event()

    def listen() -> None:
        while not ended.wait(every_s):
            with suppress(Exception):
                hear(told(stage))

    thread = threading.Thread(target=listen, daemon=True, name="shard-progress")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(every_s)
        with suppress(Exception):
            internal_kv._internal_kv_del(_prefix(stage), del_by_prefix=True, namespace=_NAMESPACE)


def _prefix(stage: str) -> bytes:
    return f"{stage}/".encode()
