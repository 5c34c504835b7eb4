"""Copies on a node: made once, and gone when nobody has asked for them in days."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rayrec.reranking import node_cache
from rayrec.reranking.node_cache import IDLE_DAYS, KEPT, copy_of


def filled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(folder.name.encode())


def aged(path: Path, days: float) -> Path:
    at = time.time() - days * 86_400
    os.utime(path, (at, at))
    return path


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_old_copies_go_when_a_new_one_comes_but_for_the_newest_few(tmp_path: Path) -> None:
    for age in range(10):
        aged(copy_of(f"night-{age}", tmp_path, filled), IDLE_DAYS + 10 - age)
    copy_of("tonight", tmp_path, filled)
    assert names(tmp_path) == {"tonight", *(f"night-{age}" for age in range(10 - (KEPT - 1), 10))}
    assert (tmp_path / "tonight" / "model.safetensors").is_file()


def test_what_was_asked_for_in_the_last_days_stays_however_many_there_are(tmp_path: Path) -> None:
    for number in range(3 * KEPT):
        aged(copy_of(f"model-{number}", tmp_path, filled), IDLE_DAYS - 1)
    copy_of("tonight", tmp_path, filled)
    assert len(names(tmp_path)) == 3 * KEPT + 1


def test_asking_for_a_copy_keeps_it_and_copies_nothing(tmp_path: Path) -> None:
    old = copy_of("old", tmp_path, filled)
    others = [copy_of(f"model-{number}", tmp_path, filled) for number in range(KEPT)]
    for path in (old, *others):
        aged(path, IDLE_DAYS + 1)
    aged(old, IDLE_DAYS + 2)
    assert copy_of("old", tmp_path, lambda folder: pytest.fail("it is there")) == old
    copy_of("tonight", tmp_path, filled)
    assert "old" in names(tmp_path)
    assert names(tmp_path) < {"old", "tonight", *(path.name for path in others)}


def test_a_copy_that_a_kill_cut_short_is_cleared_away_and_one_being_made_is_not(tmp_path: Path) -> None:
    cut_short, being_made = tmp_path / ".copy-cut-short", tmp_path / ".copy-being-made"
    for folder in (cut_short, being_made):
        folder.mkdir()
        filled(folder)
    aged(cut_short, IDLE_DAYS + 1)
    node_cache.delete_idle(tmp_path)
    assert names(tmp_path) == {being_made.name}
