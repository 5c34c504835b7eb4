"""Temporary folders are private, and what killed processes leave is found and deleted; what others use is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from waiting import PATIENCE_S, line_of

from rayrec.storage import Storage, temporary_folders

_OWNER = """
import sys
from rayrec.storage import temporary_folders

folder = temporary_folders.process_folder()
(folder / "staged").write_bytes(b"u1")
print(folder, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def owner(temp: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process with a temporary folder."""
    env = os.environ | {"TMPDIR": str(temp)}
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    return process, Path(line_of(process, process.stdout).strip())


def test_a_folder_is_private_and_ends_with_its_block(temp: Path) -> None:
    old = os.umask(0)
    try:
        with temporary_folders.temporary_folder() as folder:
            assert folder.parent.stat().st_mode & 0o777 == 0o700
            assert list(folder.iterdir()) == []
            assert temporary_folders.abandoned(0) == []
    finally:
        os.umask(old)
    assert list(temp.iterdir()) == []


def test_the_folder_of_a_killed_process_is_deleted_and_that_of_a_running_one_is_not(temp: Path) -> None:
    running, used = owner(temp)
    killed, left = owner(temp)
    try:
        assert temporary_folders.delete_abandoned(0) == []
        assert temporary_folders.in_use() == sorted([used, left])
        killed.send_signal(signal.SIGKILL)
        killed.wait(PATIENCE_S)
        assert temporary_folders.delete_abandoned() == [str(left)]
        assert temporary_folders.in_use() == [used]
    finally:
        running.communicate("\n", timeout=PATIENCE_S)
    assert running.returncode == 0
    assert list(temp.iterdir()) == []  # a process that ends by itself deletes its folder


def test_what_older_versions_left_is_deleted_unless_a_process_has_it_open(temp: Path) -> None:
    (temp / "rayrec-01234567").write_bytes(b"u1")
    (temp / "rayrec-tune-01234567").mkdir()
    (temp / "rayrec-open").mkdir()
    (temp / "rayrec-models-0").mkdir()
    (temp / "other").write_bytes(b"")
    (temp / "rayrec-link").symlink_to(temp / "other")
    with open(temp / "rayrec-open" / "file", "wb"):
        assert temporary_folders.abandoned() == []  # made just now
        gone = temporary_folders.delete_abandoned(0)
    assert sorted(Path(path).name for path in gone) == ["rayrec-01234567", "rayrec-tune-01234567"]
    assert sorted(path.name for path in temp.iterdir()) == ["other", "rayrec-link", "rayrec-models-0", "rayrec-open"]


def test_a_remote_file_is_staged_in_the_private_folder(temp: Path) -> None:
    temporary_folders.delete_process_folder()  # of other tests
    storage = Storage("memory://staging-test")
    with storage.writer("a") as file:
        file.write(b"1")
        (folder,) = temp.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(list(folder.iterdir())) == 2  # and the lock
    assert [path.name for path in folder.iterdir()] == [".lock"]
    temporary_folders.delete_process_folder()
