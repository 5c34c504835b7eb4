"""Files of Databricks' Spark jobs: those without a commit, and replaced ones, are not data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayrec.config import FileSource
from rayrec.data.input_files import list_files
from rayrec.errors import DataError


def touch(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def listed(root: Path, path: str) -> list[str]:
    return [file.path for file in list_files(str(root), FileSource(path=path), "data.interactions")]


@pytest.mark.parametrize("folder", ["events", "events/dt=2026-01-30"])
@pytest.mark.parametrize("path", ["events", "events/**/*.csv"])
def test_only_committed_files_are_data(folder: str, path: str, tmp_path: Path) -> None:
    done = {"added": ["part-0-tid-22-a-c000.csv"], "removed": ["part-0-tid-11-a-c000.csv"]}
    files = {
        "part-0-tid-11-a-c000.csv": "",  # replaced by 22
        "part-1-tid-11-b-c000.csv": "",
        "part-0-tid-22-a-c000.csv": "",
        "part-0-tid-33-a-c000.csv": "",  # failed
        "part-0-tid-44-a-c000.csv": "",  # its marks are gone: data
        "other.csv": "",
        "_started_11": "",
        "_committed_11": json.dumps({"added": [], "removed": []}),
        "_started_22": "",
        "_committed_22": json.dumps(done),
        "_started_33": "",
        "_committed_vacuum7": "x",
        "_SUCCESS": "",
    }
    touch(tmp_path / folder, files)
    touch(tmp_path / "events/dt=2026-01-29", {"part-0-tid-33-a-c000.csv": "", "_committed_33": "{}", "_started_33": ""})
    kept = ["other.csv", "part-0-tid-22-a-c000.csv", "part-0-tid-44-a-c000.csv", "part-1-tid-11-b-c000.csv"]
    expected = [f"{folder}/{name}" for name in kept] + ["events/dt=2026-01-29/part-0-tid-33-a-c000.csv"]
    assert listed(tmp_path, path) == sorted(expected)


def test_a_mark_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "events", {"part-0-tid-1-a.csv": "", "_committed_1": "{"})
    with pytest.raises(DataError, match="mark of a commit cannot be read"):
        listed(tmp_path, "events")
