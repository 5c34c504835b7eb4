"""Storage on a local folder, and on real server processes of S3, Google Cloud Storage and Azure Blob Storage."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from racing import race
from s3_server import empty_root

from rayrec.errors import MissingFileError, StorageError
from rayrec.storage import FileInfo, Storage


@pytest.fixture(params=["local", "s3", "gs", "az"])
def storage_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_root(request, tmp_path)


def paths(files: list[FileInfo]) -> list[str]:
    return [file.path for file in files]


@pytest.mark.parametrize("content", [b"new!", b""])
@pytest.mark.parametrize("path", ["a/b.txt", "dt=2011-08-31/arm=a b/weiß+%41#?.parquet"])
def test_written_content_reads_back_and_replaces_the_old(path: str, content: bytes, storage: Storage) -> None:
    storage.write(path, b"old")
    storage.write(path, content)
    assert storage.read(path) == content
    assert storage.info(path).size == len(content)
    assert paths(storage.list()) == [path]
    assert not storage.create(path, b"x")


def test_the_version_changes_with_the_content(storage: Storage) -> None:
    storage.write("f", b"1")
    before = storage.info("f").version
    storage.write("f", b"2")
    assert before != storage.info("f").version
    assert before


def test_listing_is_recursive_sorted_relative_and_agrees_with_info(storage: Storage) -> None:
    for path in ("b/2", "b/1", "a", "bc/3", "b/deep/er/4"):
        storage.write(path, path.encode())
    assert paths(storage.list()) == ["a", "b/1", "b/2", "b/deep/er/4", "bc/3"]
    assert paths(storage.list("b")) == ["b/1", "b/2", "b/deep/er/4"]
    assert paths(storage.list("b/1")) == ["b/1"]
    assert storage.list("nothing/here") == []
    assert storage.list("b") == [storage.info(path) for path in paths(storage.list("b"))]


def test_the_folders_of_a_folder_are_listed_without_what_is_in_them(storage: Storage) -> None:
    for path in ("a/dt=2/x/y", "a/dt=1/x", "a/file", "a/.hidden/x", "b/x"):
        storage.write(path, b"")
    assert storage.folders("a") == ["a/dt=1", "a/dt=2"]
    assert storage.folders() == ["a", "b"]
    assert storage.folders("a/file") == storage.folders("nowhere") == []


def test_hidden_files_are_never_listed(storage: Storage) -> None:
    storage.write(".hidden", b"")
    storage.write("a/.temporary", b"")
    storage.write(".folder/a", b"")
    storage.write("a/seen", b"")
    assert paths(storage.list()) == ["a/seen"]


def test_listing_sees_other_processes_writes_and_deletes_at_once(storage: Storage) -> None:
    storage.write("a/1", b"x")
    assert paths(storage.list("a")) == ["a/1"]
    run_script(storage.root, "Storage(root).write('a/2', b'y'); Storage(root).delete('a/1')")
    assert paths(storage.list("a")) == ["a/2"]
    assert not storage.exists("a/1")


def test_create_writes_a_file_only_once(storage: Storage) -> None:
    assert storage.create("day/manifest.json", b"first")
    assert not storage.create("day/manifest.json", b"second")
    assert storage.read("day/manifest.json") == b"first"
    storage.delete("day/manifest.json")
    assert storage.create("day/manifest.json", b"third")


def test_of_sixteen_processes_exactly_one_creates(storage: Storage) -> None:
    won = race(create_prize, storage.root, range(16))
    assert sum(won.values()) == 1
    assert storage.read("prize") == str(max(won, key=won.__getitem__)).encode()


def create_prize(root: str, racer: int, barrier: Barrier) -> bool:
    storage = Storage(root)
    storage.exists("warm")
    barrier.wait()
    return storage.create("prize", str(racer).encode())


def test_a_reader_sees_the_complete_old_or_new_content(storage: Storage) -> None:
    sizes = [200_000, 300_000]
    storage.write("f", b"0" * sizes[0])

    def rewrite() -> None:
        for turn in range(20):
            storage.write("f", str(turn % 2).encode() * sizes[turn % 2])

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(rewrite)
        while not writing.done():
            content = storage.read("f")
            assert content in (b"0" * sizes[0], b"1" * sizes[1])
        writing.result()


def test_a_failed_writer_leaves_the_old_content(storage: Storage) -> None:
    def fail() -> None:
        with storage.writer("f") as file:
            file.write(b"half")
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fail()
    assert not storage.exists("f")
    storage.write("f", b"old")
    with pytest.raises(ValueError, match="no more"):
        fail()
    assert storage.read("f") == b"old"
    assert paths(storage.list()) == ["f"]


def test_a_killed_writer_leaves_no_listed_file(storage: Storage) -> None:
    code = """
with Storage(root).writer("f") as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_script(storage.root, code, check=False) == -9
    assert storage.list() == []


def test_a_large_file_is_written_and_read_in_pieces(storage: Storage) -> None:
    block = os.urandom(1 << 20)
    with storage.writer("large") as file:
        for _ in range(12):
            file.write(block)
    with storage.open("large") as reader:
        reader.seek(5 << 20)
        assert reader.read(1 << 20) == block
        reader.seek(-3, os.SEEK_END)
        assert reader.read() == block[-3:]


def test_a_missing_file_and_a_folder_raise_an_error_with_the_path(storage: Storage) -> None:
    storage.write("folder/file", b"")
    for call, path in (
        (storage.read, "not/there"),
        (storage.info, "not/there"),
        (storage.open, "not/there"),
        (storage.read, "folder"),
    ):
        with pytest.raises(MissingFileError, match="there is no such file") as error:
            call(path)
        assert path in error.value.where
        assert not storage.exists(path)
    storage.delete("not/there")  # no error


@pytest.mark.parametrize("path", ["../up", "a/../../up", "/etc/passwd"])
def test_paths_cannot_leave_the_root(storage: Storage, path: str) -> None:
    for call in (storage.read, storage.exists, storage.list, storage.delete):
        with pytest.raises(StorageError, match="leaves the root"):
            call(path)


def test_a_used_storage_can_be_pickled(storage: Storage) -> None:
    storage.write("f", b"x")
    copy = pickle.loads(pickle.dumps(storage))
    assert copy == storage
    assert copy.read("f") == b"x"
    assert len(pickle.dumps(storage)) < 300


def test_a_store_with_atomic_create_passes_the_probe_without_leftovers(storage: Storage) -> None:
    storage.require_atomic_create()
    assert storage.list() == []


def test_a_store_that_ignores_conditions_is_refused(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(storage._backend), "create", lambda *_: True)
    with pytest.raises(StorageError, match="the store ignores conditional writes"):
        storage.require_atomic_create()


def test_other_schemes_support_all_but_create() -> None:
    storage = Storage("memory://rayrec-test")
    storage.write("a/f", b"x")
    assert storage.read("a/f") == b"x"
    assert paths(storage.list()) == ["a/f"]
    with pytest.raises(StorageError, match="not known to create files atomically"):
        storage.create("a/g", b"x")


def test_a_local_root_is_independent_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage("out")
    monkeypatch.chdir("/")
    storage.write("f", b"x")
    assert (tmp_path / "out" / "f").read_bytes() == b"x"
    assert Storage(f"file://{tmp_path}/out") == storage


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "f").write_bytes(b"x")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "data" / "dangling").symlink_to(tmp_path / "nowhere")
    assert paths(Storage(str(tmp_path / "root")).list()) == ["link/f"]


def test_missing_permissions_are_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        Storage(str(tmp_path / "file")).write("below/a/file", b"x")


def test_a_full_disk_is_a_clear_error_without_leftovers(tmp_path: Path) -> None:
    code = """
import resource
from rayrec.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for words, write in (("cannot write", Storage(root).write), ("storage failed", Storage(root).create)):
    try:
        write("f", b"x" * 5000)
    except StorageError as error:
        assert error.what.startswith(words), error
        assert "File too large" in str(error), error
    else:
        sys.exit(9)
"""
    run_script(str(tmp_path), code)
    assert list(tmp_path.iterdir()) == []


def test_wrong_bucket_and_unreachable_endpoint_are_errors(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingFileError, match="bucket"):
        Storage("s3://no-such-bucket/x").create("f", b"x")
    assert run_script("s3://rayrec-tests/x", "Storage(root).read('f')", check=False, AWS_ENDPOINT_URL="nonsense") == 1


_HEAD = """
import os, signal, sys
from rayrec.storage import Storage
root = sys.argv[1]
"""


def run_script(root: str, code: str, check: bool = True, **environment: str) -> int:
    command = [sys.executable, "-c", _HEAD + code, root]
    return subprocess.run(command, check=check, env=os.environ | environment).returncode


@pytest.mark.parametrize(
    ("path", "rights"),
    [
        ("erasure/salt.json", 0o600),
        ("erasure/requests/1.json", 0o600),
        ("reports/dt=2011-08-31/report.html", 0o640),
        ("quarantine/dt=2011-08-31/f/items.parquet", 0o640),
        ("slates/dt=2011-08-31/manifest.json", 0o644),
    ],
)
def test_only_those_who_must_can_read_a_local_file(path: str, rights: int, tmp_path: Path) -> None:
    storage, old = Storage(str(tmp_path / "out")), os.umask(0o022)
    try:
        storage.write(path, b"1")
        assert storage.create(f"{path}.2", b"2")
        for written in (path, f"{path}.2"):
            assert os.stat(storage.url(written)).st_mode & 0o777 == rights
        storage.write(path, b"3")
        assert os.stat(storage.url(path)).st_mode & 0o777 == rights
        os.umask(0o077)
        storage.write(path, b"4")
        assert os.stat(storage.url(path)).st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


def test_what_killed_writers_left_is_deleted_and_nothing_else(storage: Storage) -> None:
    for path in ("b/.report.html.0a.tmp", f".probe-{'0' * 32}", "a/.kept", "a/seen.tmp"):
        storage.write(path, b"x")
    more = 0
    if storage.root.startswith("s3://"):  # a large file on its way to S3: its parts are in no listing
        bucket, _, folder = storage.root.removeprefix("s3://").partition("/")
        client = storage._backend._fs  # type: ignore[union-attr]
        for key in (f"{folder}/slates/big", "elsewhere/big"):
            client.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
        more = 1
    assert storage.delete_staging_files() == 2 + more
    assert storage.delete_staging_files() == 0
    assert paths(storage.hidden()) == ["a/.kept"]
    assert paths(storage.list()) == ["a/seen.tmp"]
