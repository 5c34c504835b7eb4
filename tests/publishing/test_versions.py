"""The code version is of rayrec's own checkout, or of the package; never of the repository it happens to lie in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import rayrec
from rayrec.publishing import code_version, versions


def checkout(folder: Path) -> Path:
    """A git repository with one commit that holds a package."""
    (folder / "rayrec").mkdir(parents=True)
    (folder / "rayrec" / "__init__.py").write_text("")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "one"],
    ):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder / "rayrec" / "__init__.py"


def test_in_a_checkout_it_is_the_commit_and_says_if_files_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = checkout(tmp_path)
    monkeypatch.setattr(rayrec, "__file__", str(package))
    commit = subprocess.check_output(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], text=True).strip()
    assert code_version() == commit
    package.write_text("changed = True")
    assert code_version() == f"{commit}-dirty"


def test_installed_inside_another_repository_it_is_the_package_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout(tmp_path)
    installed = tmp_path / ".venv" / "site-packages" / "rayrec"
    installed.mkdir(parents=True)
    monkeypatch.setattr(rayrec, "__file__", str(installed / "__init__.py"))
    assert code_version() == f"rayrec {rayrec.__version__}"


def test_versions_name_what_can_move_a_score() -> None:
    assert {"python", "rayrec", "ray", "torch", "numpy", "pyarrow"} <= set(versions())
