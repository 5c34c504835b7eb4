"""Every error that users see says what to do."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "rayrec"


def _error_classes(trees: dict[Path, ast.Module]) -> set[str]:
    """RayrecError and the names of all classes that derive from it."""
    names = {"RayrecError"}
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while more := {
        one.name
        for one in classes
        if one.name not in names and {base.id for base in one.bases if isinstance(base, ast.Name)} & names
    }:
        names |= more
    return names


def test_every_error_says_what_to_do() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf8")) for path in sorted(PACKAGE.rglob("*.py"))}
    names = _error_classes(trees) - {"MissingFileError"}  # its place says all
    without = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
        if "hint" not in {keyword.arg for keyword in node.keywords}
    ]
    assert len(names) > 6
    assert without == []
