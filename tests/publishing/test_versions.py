"""The code version: the commit of rayrec's own checkout, or a digest of the package's files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import rayrec
from rayrec.publishing import code_version, package_versions


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


def test_in_a_checkout_the_version_is_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rayrec, "__file__", str(checkout(tmp_path)))
    commit = subprocess.check_output(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], text=True).strip()
    assert code_version() == commit


def test_every_local_change_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = checkout(tmp_path)
    monkeypatch.setattr(rayrec, "__file__", str(package))
    commit = code_version()
    seen = []
    for text in ("changed = 1", "changed = 2"):
        package.write_text(text)
        seen.append(code_version())
    assert all(re.fullmatch(f"{commit}-dirty\\+[0-9a-f]{{16}}", version) for version in seen)
    package.write_text("changed = 1")
    assert code_version() == seen[0] != seen[1]


def test_without_git_the_version_is_package_version_and_content_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout(tmp_path)  # an unrelated repository
    versions_seen = set()
    for place, text in (("one", "a = 1"), ("same", "a = 1"), ("other", "a = 2")):
        installed = tmp_path / place / "site-packages" / "rayrec"
        (installed / "words").mkdir(parents=True)
        (installed / "__init__.py").write_text("")
        (installed / "words" / "vague.yaml").write_text(text)
        (installed / "words" / "vague.cpython-311.pyc").write_text(place)
        monkeypatch.setattr(rayrec, "__file__", str(installed / "__init__.py"))
        versions_seen.add(code_version())
    assert len(versions_seen) == 2
    assert all(re.fullmatch(rf"rayrec {rayrec.__version__}\+[0-9a-f]{{16}}", version) for version in versions_seen)


def test_versions_list_packages_that_can_change_a_score() -> None:
    assert {"python", "rayrec", "ray", "torch", "numpy", "pyarrow"} <= set(package_versions())
