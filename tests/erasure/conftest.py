"""One real run without an LLM and without Ray; each test erases users in a copy of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from erasure_dataset import CHECKPOINT, USERS, Made
from one_process import without_ray

from jobs import daily
from rayrec.data.synthetic_dataset import make_synthetic_dataset
from rayrec.reporting.html_report import read_report


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("forgetting")
    shop = make_synthetic_dataset(folder, seed=5, users=USERS)
    made = Made(shop.data_root, folder / "out", shop.date, ())
    with without_ray():
        result = made.run(daily.main, "--date", made.date.isoformat())
    assert result.exit_code == 0, result.output
    # A fake tuned checkpoint; other tests make real ones.
    made.storage.write(f"{CHECKPOINT}/rayrec.json", b"{}")
    shown = sorted(set(read_report(made.storage, made.date.isoformat()).examples["user_id"].to_pylist()))
    others = [f"user-{n:04d}" for n in range(USERS)]
    return replace(made, gone=(shown[0], *[user for user in others if user not in shown][:3]))


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of the test's own: jobs.forget empties it of what killed processes left."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def made(first_run: Made, tmp_path: Path) -> Iterator[Made]:
    """A copy that the test may change; its jobs run without Ray."""
    shutil.copytree(first_run.root, tmp_path / "out")
    with without_ray():
        yield replace(first_run, root=tmp_path / "out")
