"""A process without a user's name or home gets both; everybody else keeps theirs."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayrec.storage import home_folder, temporary_folders


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", *home_folder._CACHES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(temporary_folders, "_of_process", {})
    yield
    temporary_folders.delete_process_folder()


def unknown(_: int) -> None:
    raise KeyError("uid not found")


def test_an_unknown_user_gets_a_name_and_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pwd.getpwuid", unknown)
    home_folder.ensure()
    assert getpass.getuser() == f"uid-{os.getuid()}"
    home = Path(os.path.expanduser("~"))
    assert home.parent == tmp_path
    home_folder.ensure()
    assert Path(os.path.expanduser("~")) == home
    temporary_folders.delete_process_folder()
    assert not home.exists()


def test_a_home_that_cannot_be_written_stays_and_caches_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setattr("os.access", lambda path, mode: path != "/")
    monkeypatch.setenv("TRITON_HOME", "/mine")
    home_folder.ensure()
    assert os.environ["HOME"] == "/"
    assert Path(os.environ["XDG_CACHE_HOME"]).parent == tmp_path
    assert os.environ["TRITON_HOME"] == "/mine"


def test_a_usable_home_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "ann")
    before = dict(os.environ)
    home_folder.ensure()
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []
