"""Pushes the slates of a published date into Redis, where a serving layer reads them by user.

    PREFIX:current                      hash: arm -> version
    PREFIX:VERSION:ARM:USER             the slate as JSON: dt, slate_id, items, scores, sources, propensities
    PREFIX:push                         a lock, while a push works

A version is a date and a digest of its manifest and of the erasure list. It is written beside the one that readers
use, in pipelines of a few hundred slates; one write of `PREFIX:current` then switches every arm. What does not belong
to a current version expires after a while: the old slates, those of killed pushes, and those of erased users.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config.push_section import Push, redis_url_problem
from rayrec.data import erasure_list
from rayrec.data.erasure_list import ErasureList
from rayrec.errors import ConfigError, PublicationError, StorageError
from rayrec.numerics.hashing import digest
from rayrec.publishing.records import Manifest
from rayrec.publishing.slate_reader import read_manifest, read_shard_slates
from rayrec.storage import Storage

if TYPE_CHECKING:
    from redis import Redis
    from redis.lock import Lock

_COLUMNS = ("user_id", "slate_id", "item_id", "score", "source", "propensity")
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}-[0-9a-f]{12}")
_LOCK_S = 300.0  # renewed with every pipeline; a killed push blocks the next one for so long
_TIMEOUT_S = 30.0  # of each answer
_SCANNED = 1000  # keys in one answer of SCAN
_GLOB = re.compile(r"([*?\[\]\\^])")


@dataclass(frozen=True)
class PushResult:
    """What a push did."""

    version: str
    slates: int  # written; 0 if the version was current before
    expiring: int  # slates of other versions that will expire
    switched: bool


def push(root: str, date: datetime.date, settings: Push, prefix: str, arm: str | None = None) -> PushResult:
    """Push one arm, or all, of a published date, and make it current.

    Does nothing if it is current. Raises PublicationError if the date or arm is not published, or another push works;
    StorageError if Redis fails: readers then keep the version that they have, and the same call completes the push.
    """
    storage = Storage(root)
    manifest, erased = read_manifest(root, date), erasure_list.read(storage)
    if arm is not None and arm not in manifest.arms:
        raise PublicationError(
            f"there is no arm {arm!r} on {manifest.dt}", where=root, hint=f"the arms are {', '.join(manifest.arms)}"
        )
    arms = manifest.arms if arm is None else (arm,)
    version = f"{manifest.dt}-{digest([manifest.identity, manifest.attempt, erased.digest])[:12]}"
    with _connected(settings.url) as client, _alone(client, prefix) as lock:
        target = _Target(client, lock, prefix, version, settings.chunk_users)
        before = target.current()
        gone = () if arm is not None else tuple(before.keys() - set(arms))
        switched = bool(gone) or any(before.get(each) != version for each in arms)
        slates = 0
        if switched:
            slates = sum(target.write(each, _slates(storage, manifest, each, erased)) for each in arms)
            target.switch(arms, gone)
        return PushResult(version, slates, target.expire_others(settings.keep_old_minutes * 60), switched)


@dataclass(frozen=True)
class _Target:
    client: Redis
    lock: Lock
    prefix: str
    version: str
    chunk: int

    def current(self) -> dict[str, str]:
        """The version of each arm that readers use."""
        return dict(self.client.hgetall(f"{self.prefix}:current"))  # type: ignore[arg-type]

    def write(self, arm: str, slates: Iterator[tuple[str, str]]) -> int:
        """Write (user, JSON) pairs; return their number."""
        written, pipeline = 0, self.client.pipeline(transaction=False)
        for user, slate in slates:
            pipeline.set(f"{self.prefix}:{self.version}:{arm}:{user}", slate)
            written += 1
            if len(pipeline) >= self.chunk:
                pipeline.execute()
                self.lock.reacquire()
        pipeline.execute()
        return written

    def switch(self, arms: tuple[str, ...], gone: tuple[str, ...]) -> None:
        """Make the version current for the arms, and let the arms go that the date does not have; in one step."""
        self.lock.reacquire()
        key, transaction = f"{self.prefix}:current", self.client.pipeline(transaction=True)
        transaction.hset(key, mapping=dict.fromkeys(arms, self.version))
        if gone:
            transaction.hdel(key, *gone)
        transaction.execute()

    def expire_others(self, after_s: float) -> int:
        """Let the slates expire that are not of a current version; those that already do keep their time."""
        used, count = set(self.current().items()), 0
        pattern = _GLOB.sub(r"\\\1", self.prefix) + ":*"
        old: list[str] = []
        for key in self.client.scan_iter(match=pattern, count=_SCANNED):
            version, _, rest = key.removeprefix(f"{self.prefix}:").partition(":")
            if _VERSION.fullmatch(version) and (rest.partition(":")[0], version) not in used:
                old.append(key)
            if len(old) >= self.chunk:
                count, old = count + self._expire(old, after_s), []
        return count + self._expire(old, after_s)

    def _expire(self, keys: list[str], after_s: float) -> int:
        asking = self.client.pipeline(transaction=False)
        for key in keys:
            asking.ttl(key)
        pipeline = self.client.pipeline(transaction=False)
        for key, left in zip(keys, asking.execute(), strict=True):
            if left == -1:  # without an end
                pipeline.pexpire(key, int(after_s * 1000))
        pipeline.execute()
        self.lock.reacquire()
        return len(keys)


def _slates(storage: Storage, manifest: Manifest, arm: str, erased: ErasureList) -> Iterator[tuple[str, str]]:
    """(user, slate as JSON) of one arm, shard by shard."""
    for shard in range(manifest.shards):
        table = read_shard_slates(storage, manifest, arm, shard, _COLUMNS)
        table = table.filter(pc.invert(pa.array(erased.contains(table["user_id"])))).combine_chunks()
        columns = {name: _values(table[name]) for name in _COLUMNS}
        users = columns["user_id"]
        starts = [row for row, user in enumerate(users) if row == 0 or user != users[row - 1]]
        for start, end in zip(starts, [*starts[1:], len(users)], strict=True):
            slate = {
                "dt": str(manifest.dt),
                "slate_id": columns["slate_id"][start],
                "items": columns["item_id"][start:end],
                "scores": columns["score"][start:end],
                "sources": columns["source"][start:end],
                "propensities": columns["propensity"][start:end],
            }
            yield users[start], json.dumps(slate, ensure_ascii=False, separators=(",", ":"))


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The values as Python objects; a float32 with no more digits than it needs, not those of the nearest double."""
    if pa.types.is_float32(column.type):
        return [float(text) for text in column.cast(pa.string()).to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


@contextmanager
def _connected(url: str) -> Iterator[Redis]:
    """A client of the URL, or of the one in the environment variable; its errors as StorageErrors without secrets."""
    try:
        import redis
    except ImportError:
        raise ConfigError(
            "the package `redis` is not installed", where="push.url", hint="pip install 'rayrec[redis]'"
        ) from None
    where = "push.url"
    if url.startswith("env:"):
        name = url.removeprefix("env:")
        url, where = os.environ.get(name, ""), f"push.url, the environment variable {name}"
    if (problem := redis_url_problem(url, may_hold_secrets=True)) is not None:
        raise ConfigError(f"{problem if url else 'there is no URL'}", where=where, hint="redis://host:6379/0")
    parts = urlsplit(url)
    where = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
    options: dict[str, Any] = {"decode_responses": True, "socket_timeout": _TIMEOUT_S}
    if parts.scheme != "unix":
        options["socket_connect_timeout"] = _TIMEOUT_S
    try:
        with redis.Redis.from_url(url, **options) as client:
            yield client
    except redis.RedisError as error:
        secrets = [secret for secret in (parts.password, parts.username) if secret]
        words = str(error)
        for secret in secrets:
            words = words.replace(secret, "***")
        raise StorageError(
            f"Redis failed: {type(error).__name__}: {words}",
            where=where,
            hint="readers keep the version that they have; check that the server runs, its memory (maxmemory) and the "
            "credentials, and run jobs.push again",
        ) from None


@contextmanager
def _alone(client: Redis, prefix: str) -> Iterator[Lock]:
    from redis.exceptions import LockError

    lock = client.lock(f"{prefix}:push", timeout=_LOCK_S)
    if not lock.acquire(blocking=False):
        raise PublicationError(
            "another push with this prefix works",
            where=f"{prefix}:push",
            hint=f"wait for it; the lock of a killed push ends after {_LOCK_S / 60:.0f} minutes",
        )
    try:
        yield lock
    finally:
        with suppress(LockError):  # it ended, and perhaps belongs to another push now
            lock.release()
