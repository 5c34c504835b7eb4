"""Who knows whom: the rule of the README's architecture section, read out of the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "rayrec"
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
FILES = sorted(path for folder in ("rayrec", "jobs") for path in (REPOSITORY / folder).rglob("*.py"))

ENTRANCE = PACKAGE / "config" / "__main__.py"  # a command like those of jobs/: it tells of every room's methods
GROUND = {"config", "contracts"}  # every room may know these, and what stands in no room
BESIDE = {  # and of the rooms beside it a room knows only
    "reranking": {"instructions"},
    "embeddings": {"publishing"},
    "evaluation": {"denoising", "instructions", "offpolicy", "publishing", "retrieval", "slates"},
    "pipeline": ROOMS,
}
FACE = PACKAGE / "__init__.py"  # what whoever serves slates needs
KNOW_RAY = {"pipeline", "cluster.py", "spot.py", "workers.py"}


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def place(file: Path) -> str:
    """The room that a file stands in, or the file's own name."""
    return file.relative_to(PACKAGE).parts[0]


def rooms_known(file: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(file) if name.startswith("rayrec.")} & ROOMS


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_knows_only_the_rooms_that_it_may(room: str) -> None:
    allowed = GROUND | BESIDE.get(room, set()) | {room}
    strangers = {str(file): rooms_known(file) - allowed for file in (PACKAGE / room).rglob("*.py")}
    strangers.pop(str(ENTRANCE), None)
    assert {file: rooms for file, rooms in strangers.items() if rooms} == {}


def test_what_stands_in_no_room_knows_only_the_ground() -> None:
    strangers = {file.name: rooms_known(file) - GROUND for file in PACKAGE.glob("*.py") if file != FACE}
    assert {file: rooms for file, rooms in strangers.items() if rooms} == {}
    assert rooms_known(FACE) == {"publishing"}


def test_ray_is_known_where_the_readme_says_and_nowhere_else() -> None:
    with_ray = [file for file in FILES if any(name.split(".")[0] == "ray" for name in imported(file))]
    assert {place(file) if file.is_relative_to(PACKAGE) else str(file) for file in with_ray} == KNOW_RAY


def test_the_package_knows_nothing_of_jobs_benchmarks_and_tests() -> None:
    others = {"jobs", "benchmarks", "tests"}
    assert not [file for file in PACKAGE.rglob("*.py") if {name.split(".")[0] for name in imported(file)} & others]


def test_the_readme_names_every_room_and_every_file_that_stands_in_none() -> None:
    section = (REPOSITORY / "README.md").read_text(encoding="utf8").split("## Architecture")[1].split("\n## ")[0]
    there = {f"`rayrec/{room}/`" for room in ROOMS}
    there |= {f"`{file.stem}`" for file in PACKAGE.glob("*.py") if file != FACE}
    assert {name for name in there if name not in section} == set()
