"""Which storage errors are repeated, how often, and that a create whose answer was lost is still one creator's."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st
from s3_server import injected

from rayrec.errors import MissingFileError, StorageError, TransientStorageError
from rayrec.storage import Storage, retries
from rayrec.storage.backends import LocalBackend
from rayrec.storage.retries import CALL_POLICY, RetryPolicy, is_transient, retrying
from rayrec.storage.s3_client import client_options
from rayrec.storage.tables import read_parquet, write_parquet


def answer(status: int, code: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        answer(500),
        answer(503, "SlowDown"),
        answer(429),
        answer(409),
        answer(400, "RequestTimeout"),
        caused(OSError(errno.EBUSY, "reduce your request rate"), answer(503, "SlowDown")),
        EndpointConnectionError(endpoint_url="http://store"),
        ReadTimeoutError(endpoint_url="http://store"),
        ConnectionResetError("gone"),
        TimeoutError(),
        OSError(errno.ESTALE, "stale file handle"),
        caused(ValueError("half a body"), ConnectionResetError("gone")),
    ],
    ids=repr,
)
def test_errors_that_pass(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        answer(403, "AccessDenied"),
        answer(404, "NoSuchBucket"),
        OSError("Forbidden: https://storage.googleapis.com/b/o"),  # gcsfs
        answer(412, "PreconditionFailed"),
        caused(PermissionError("no"), answer(403)),
        caused(OSError(errno.EBUSY, "busy?"), answer(403)),  # the store's own answer decides
        OSError(errno.ENOSPC, "no space left on device"),
        OSError(errno.EDQUOT, "quota"),
        OSError(errno.EROFS, "read-only"),
        OSError(errno.EFBIG, "file too large"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        ValueError("an endpoint that is no URL"),
    ],
    ids=repr,
)
def test_errors_that_stay(error: Exception) -> None:
    assert not is_transient(error)


@given(failures=st.integers(0, 6), transient=st.booleans())
def test_work_is_repeated_as_often_as_the_policy_says(failures: int, transient: bool) -> None:
    policy, pauses = RetryPolicy(attempts=4, first_s=1, longest_s=3), list[float]()
    retries.take()

    def work(attempt: int) -> int:
        if attempt < failures:
            raise OSError(errno.ETIMEDOUT if transient else errno.ENOSPC, str(attempt))
        return attempt

    def run() -> int:
        return retrying(work, policy, "calls", is_transient, pauses.append)

    ends = failures == 0 or (transient and failures < policy.attempts)
    if ends:
        assert run() == failures
    else:
        with pytest.raises(OSError, match=str(min(failures, policy.attempts) - 1) if transient else "0"):
            run()
    assert len(pauses) == (min(failures, policy.attempts - 1) if transient else 0)
    assert all(0 <= pause <= min(3, 2**k) for k, pause in enumerate(pauses))
    assert retries.take() == ({"calls": len(pauses)} if pauses else {})


def test_the_jitter_leaves_the_seeds_of_the_job_alone() -> None:
    random.seed(7)
    expected = random.random()
    random.seed(7)
    CALL_POLICY.pause_s(0)
    assert random.random() == expected


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts, and none of botocore's own attempts, which pause for up to a second."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(RetryPolicy, "pause_s", lambda self, repeat: 0.0)


Call = Callable[..., object]


def failing(times: int, error: Callable[[], OSError], plain: Call, after: bool) -> Call:
    """`plain`, which fails so many times, before or after its work."""
    left = [times]

    def call(*arguments: object) -> object:
        if left[0] and not after:
            left[0] -= 1
            raise error()
        done = plain(*arguments)
        if left[0]:
            left[0] -= 1
            raise error()
        return done

    return call


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_local_calls_survive_a_passing_error_before_or_after_their_work(
    after: bool, tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))

    def fail_once(name: str) -> None:
        plain = getattr(LocalBackend, name)
        monkeypatch.setattr(LocalBackend, name, failing(1, lambda: OSError(errno.EIO, "passing"), plain, after))

    fail_once("move_in")
    storage.write("f", b"new")
    fail_once("staging_file")
    storage.write("f", b"newer")
    fail_once("read")
    assert storage.read("f") == b"newer"
    fail_once("create")
    assert storage.create("g", b"mine")
    assert not storage.create("g", b"another's")
    fail_once("delete")
    storage.delete("g")
    fail_once("find")
    assert [info.path for info in storage.list()] == ["f"]
    fail_once("find")
    assert storage.hidden() == []


def test_an_error_that_stays_is_not_repeated(tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    retries.take()
    full = failing(9, lambda: OSError(errno.ENOSPC, "no space left on device"), LocalBackend.move_in, after=False)
    monkeypatch.setattr(LocalBackend, "move_in", full)
    with pytest.raises(StorageError, match="no space left") as error:
        Storage(str(tmp_path)).write("f", b"x")
    assert type(error.value) is StorageError
    assert retries.take() == {}
    assert os.listdir(tmp_path) == []


def test_an_error_that_lasts_is_raised_as_worth_a_retry(
    tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = failing(9, lambda: OSError(errno.ETIMEDOUT, "timed out"), LocalBackend.read, after=False)
    monkeypatch.setattr(LocalBackend, "read", down)
    with pytest.raises(TransientStorageError, match="storage failed: TimeoutError: "):
        Storage(str(tmp_path)).read("f")


FAILING_PERCENT = 15


def test_every_call_ends_well_on_a_store_that_fails(
    s3_server: str, failing_bucket: Callable[[int, int], str], hasty: None
) -> None:
    root = failing_bucket(FAILING_PERCENT, 11)
    storage = Storage(root)
    retries.take()
    contents = {f"a/{n}": os.urandom(1 + 5_000 * n) for n in range(12)}
    for path, content in contents.items():
        storage.write(path, content)
    assert [info.path for info in storage.list("a")] == sorted(contents)
    assert {path: storage.read(path) for path in contents} == contents
    assert all(storage.read_range(path, 0, 900) == content[:900] for path, content in contents.items())
    table = pa.table({"number": list(range(50_000))})
    write_parquet(storage, "t.parquet", table)
    for _ in range(5):
        assert read_parquet(storage, "t.parquet").equals(table)
    assert not storage.exists("a/none")
    with pytest.raises(MissingFileError):
        storage.read("a/none")
    for path in contents:
        storage.delete(path)
    assert storage.list("a") == []
    faults = injected(s3_server, root)
    assert sum(faults.values()) - faults["requests"] > 10
    assert retries.take()[retries.CALLS] > 5


def test_of_many_creators_on_a_store_that_fails_exactly_one_wins(
    s3_server: str, failing_bucket: Callable[[int, int], str], hasty: None
) -> None:
    """Also with the same content, and where the winner's answer was lost."""
    root = failing_bucket(FAILING_PERCENT, 5)
    storage = Storage(root)
    with ThreadPoolExecutor(8) as pool:
        for turn in range(6):
            won = list(pool.map(lambda _, turn=turn: storage.create(f"prize-{turn}", b"the same"), range(8)))
            assert sum(won) == 1
    assert injected(s3_server, root).get("lost answer", 0) > 0


@pytest.mark.parametrize("storage_root", ["local", "s3", "gs", "az"], indirect=True)
def test_a_create_whose_answer_was_lost_is_the_creators_own(
    storage_root: str, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(storage_root)
    backend = type(storage._backend)
    lost = failing(2, lambda: ConnectionResetError(errno.ECONNRESET, "answer lost"), backend.create, after=True)
    monkeypatch.setattr(backend, "create", lost)
    assert storage.create("f", b"mine")
    monkeypatch.undo()
    assert not storage.create("f", b"another's")
    assert storage.read("f") == b"mine"


@pytest.mark.parametrize(("bucket", "error"), [("no-such-bucket", MissingFileError)])
def test_a_missing_bucket_is_not_repeated(s3_server: str, bucket: str, error: type[StorageError]) -> None:
    retries.take()
    with pytest.raises(error):
        Storage(f"s3://{bucket}/x").read("f")
    assert retries.take() == {}


def test_the_client_takes_its_limits_from_us_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"):
        monkeypatch.delenv(name, raising=False)
    config = client_options()["config_kwargs"]
    assert config["retries"] == {"mode": "adaptive", "total_max_attempts": 3}
    assert 0 < config["connect_timeout"] < config["read_timeout"]
    session = client_options()["session"]
    assert session.get_config_variable("metadata_service_num_attempts") == 5
    assert session.get_config_variable("metadata_service_timeout") == 5
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    assert client_options()["config_kwargs"]["retries"] == {"mode": "adaptive"}
