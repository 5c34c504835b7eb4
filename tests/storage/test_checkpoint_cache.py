"""The checkpoint cache: a copy is made once and deleted after days without use."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from rayrec.errors import DataError
from rayrec.numerics.hashing import digest
from rayrec.storage import checkpoint_cache
from rayrec.storage.checkpoint_cache import IDLE_DAYS, MIN_CACHED_COPIES, cached_copy


def filled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(folder.name.encode())


def aged(path: Path, days: float) -> Path:
    at = time.time() - days * 86_400
    os.utime(path, (at, at))
    return path


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_a_new_copy_deletes_old_ones_except_the_newest_few(tmp_path: Path) -> None:
    for age in range(10):
        aged(cached_copy(digest(age), tmp_path, filled), IDLE_DAYS + 10 - age)
    new = cached_copy(digest("new"), tmp_path, filled)
    assert names(tmp_path) == {new.name, *(digest(age) for age in range(10 - (MIN_CACHED_COPIES - 1), 10))}
    assert (new / "model.safetensors").is_file()


def test_recently_used_copies_stay_regardless_of_their_number(tmp_path: Path) -> None:
    for number in range(3 * MIN_CACHED_COPIES):
        aged(cached_copy(digest(number), tmp_path, filled), IDLE_DAYS - 1)
    cached_copy(digest("new"), tmp_path, filled)
    assert len(names(tmp_path)) == 3 * MIN_CACHED_COPIES + 1


def test_using_a_copy_marks_it_and_copies_nothing(tmp_path: Path) -> None:
    old = cached_copy(digest("old"), tmp_path, filled)
    others = [cached_copy(digest(number), tmp_path, filled) for number in range(MIN_CACHED_COPIES)]
    for path in (old, *others):
        aged(path, IDLE_DAYS + 1)
    aged(old, IDLE_DAYS + 2)
    assert cached_copy(old.name, tmp_path, lambda folder: pytest.fail("it is there")) == old
    new = cached_copy(digest("new"), tmp_path, filled)
    assert old.name in names(tmp_path)
    assert names(tmp_path) < {path.name for path in (old, new, *others)}


def test_unfinished_copies_of_killed_processes_are_deleted_and_active_ones_stay(tmp_path: Path) -> None:
    cut_short, being_made = tmp_path / ".copy-cut-short", tmp_path / ".copy-being-made"
    for folder in (cut_short, being_made):
        folder.mkdir()
        filled(folder)
    aged(cut_short, IDLE_DAYS + 1)
    checkpoint_cache.delete_idle(tmp_path)
    assert names(tmp_path) == {being_made.name}


def home(folder: Path) -> Path:
    """A folder of old entries, named like copies and otherwise."""
    folder.mkdir(mode=0o700)
    for number in range(3 * MIN_CACHED_COPIES):
        for name in (digest(number), f"letters-{number}"):
            (folder / name).mkdir()
            aged(folder / name, IDLE_DAYS + 10)
    return folder


def test_a_link_in_place_of_the_cache_is_refused_and_its_target_stays(tmp_path: Path) -> None:
    victim = home(tmp_path / "home")
    before = names(victim)
    (tmp_path / "cache").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for link in ("cache", "dangling"):
        with pytest.raises(DataError, match="another user can access it"):
            cached_copy(digest("new"), tmp_path / link, filled)
    with pytest.raises(NotADirectoryError):
        checkpoint_cache.delete_idle(tmp_path / "cache")
    assert names(victim) == before
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_cache_accessible_to_other_users_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(DataError, match="another user can access it"):
        cached_copy(digest("new"), tmp_path / "cache", filled)


def test_only_copies_are_deleted(tmp_path: Path) -> None:
    root = home(tmp_path / "cache")
    cached_copy(digest("new"), root, filled)
    left = names(root)
    assert {f"letters-{number}" for number in range(3 * MIN_CACHED_COPIES)} < left
    assert len(left) == 3 * MIN_CACHED_COPIES + MIN_CACHED_COPIES


def test_of_many_that_want_a_copy_one_makes_it(tmp_path: Path) -> None:
    made, together = list[Path](), Barrier(8)

    def copy(folder: Path) -> None:
        made.append(folder)
        filled(folder)

    def want(_: int) -> Path:
        together.wait()
        return cached_copy(digest("one"), tmp_path, copy)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(want, range(8)))) == 1
    assert len(made) == 1
    assert names(tmp_path) == {digest("one")}


def test_after_a_copy_that_failed_the_next_is_made(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        cached_copy(digest("one"), tmp_path, fail)
    assert names(tmp_path) == set()
    assert cached_copy(digest("one"), tmp_path, filled).is_dir()


def test_a_nodes_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_cache, "default_folder", lambda: tmp_path / "cache")
    folder = aged(checkpoint_cache.node_folder("vllm"), IDLE_DAYS + 9)
    assert checkpoint_cache.node_folder("vllm") == folder
    checkpoint_cache.delete_idle(tmp_path / "cache")
    assert folder.stat().st_mode & 0o777 == 0o700
