"""What the demo may delete: only folders that a demo made."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.demo import FOLDERS, MARKER, clear_demo_folders, main
from rayrec.errors import ConfigError


def contents(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def test_folders_of_an_earlier_demo_are_emptied(tmp_path: Path) -> None:
    clear_demo_folders(tmp_path)
    empty = contents(tmp_path)
    assert empty == {*FOLDERS, *(f"{name}/{MARKER}" for name in FOLDERS)}
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tmp_path / "out/slates/dt=2026-03-02").mkdir(parents=True)
    (tmp_path / "out/slates/dt=2026-03-02/manifest.json").touch()
    (tmp_path / "data/items.csv").touch()
    (tmp_path / "data/elsewhere").symlink_to(outside, target_is_directory=True)
    clear_demo_folders(tmp_path)
    assert contents(tmp_path) == empty | {"outside", "outside/kept"}


@pytest.mark.parametrize("name", FOLDERS)
def test_no_folder_is_emptied_if_one_was_not_made_by_a_demo(tmp_path: Path, name: str) -> None:
    clear_demo_folders(tmp_path)
    (tmp_path / "data/items.csv").touch()
    (tmp_path / name / MARKER).unlink()
    (tmp_path / name / "manifest.json").touch()
    before = contents(tmp_path)
    result = CliRunner().invoke(main, ["--root", str(tmp_path)])
    assert result.exit_code == 2
    assert str(tmp_path / name) in result.output
    assert "--root" in result.output
    assert contents(tmp_path) == before


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    made, root = tmp_path / "made", tmp_path / "root"
    clear_demo_folders(made)
    (made / "out/manifest.json").touch()
    root.mkdir()
    (root / "out").symlink_to(made / "out", target_is_directory=True)
    with pytest.raises(ConfigError, match="did not make"):
        clear_demo_folders(root)
    assert (made / "out/manifest.json").is_file()


def test_a_demo_killed_while_deleting_can_be_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clear_demo_folders(tmp_path)
    empty = contents(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "out" / name).mkdir()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jobs.demo.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            clear_demo_folders(tmp_path)
    clear_demo_folders(tmp_path)
    assert contents(tmp_path) == empty
