"""The users of shards in work, from actors to the driver."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from waiting import PATIENCE_S

from rayrec.ray_support import shard_progress
from rayrec.ray_support.shard_progress import heard, tell, told


class Store:
    """Stands for Ray's key-value store."""

    def __init__(self) -> None:
        self.content: dict[bytes, str] = {}

    def _internal_kv_put(self, key: bytes, value: str, namespace: bytes) -> None:
        self.content[key] = value

    def _internal_kv_get(self, key: bytes, namespace: bytes) -> bytes:
        return self.content[key].encode()

    def _internal_kv_list(self, prefix: bytes, namespace: bytes) -> list[bytes]:
        return [key for key in self.content if key.startswith(prefix)]

    def _internal_kv_del(self, key: bytes, del_by_prefix: bool, namespace: bytes) -> None:
        for found in self._internal_kv_list(key, namespace):
            del self.content[found]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    found = Store()
    monkeypatch.setattr(shard_progress, "internal_kv", found)
    monkeypatch.setattr(shard_progress.ray, "is_initialized", lambda: True)
    return found


def test_users_of_all_shards_of_a_stage_are_added_up(store: Store) -> None:
    for shard, users in ((0, 10), (1, 5), (0, 30)):  # a shard's newest number counts
        tell("score a", shard, users)
    tell("score b", 0, 99)
    assert told("score a") == 35
    reached: list[int] = []
    came = threading.Event()
    with heard("score a", lambda users: (reached.append(users), came.set()), every_s=0.01):  # type: ignore[func-returns-value]
        assert came.wait(PATIENCE_S)
    assert set(reached) == {35}
    assert list(store.content) == [b"score b/0"]  # nothing is left


def test_a_store_that_fails_ends_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def fail(*_: Any, **__: Any) -> None:
        asked.set()
        raise RuntimeError("the GCS does not answer")

    for name in ("_internal_kv_put", "_internal_kv_list", "_internal_kv_del"):
        monkeypatch.setattr(store, name, fail)
    tell("score a", 0, 1)
    with heard("score a", lambda users: None, every_s=0.01):
        asked.clear()
        assert asked.wait(PATIENCE_S)


def test_between_processes_of_ray(local_ray: None) -> None:
    import ray

    ray.get([ray.remote(num_cpus=0)(tell).remote("score x", shard, 7) for shard in range(2)])
    assert told("score x") == 14
    with heard("score x", lambda users: None):
        pass
    assert told("score x") == 0
