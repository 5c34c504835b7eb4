"""The dependency rule of the architecture, held to the imports.

    jobs -> pipeline -> reporting -> evaluation -> monitoring -> the stages -> data -> storage, config -> numerics

A package imports packages to its right. `text_encoding` stands between the stages and storage. The stages (denoising,
retrieval, instructions, reranking, blending, experiments, slates, embeddings, publishing) do not import each other:
they meet in tables.
"""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LONGEST_MODULE = 350  # lines

NUMERICS = {"errors", "redaction", "storage_url"}
CONFIG = NUMERICS | {"numerics"}
STORAGE = NUMERICS | {"numerics"}
DATA = CONFIG | {"config", "storage"}
TEXT_ENCODING = STORAGE | {"storage"}
STAGE = DATA | {"data", "text_encoding"}
STAGES = {
    "blending",
    "denoising",
    "embeddings",
    "experiments",
    "instructions",
    "publishing",
    "reranking",
    "retrieval",
    "slates",
}
MAY_IMPORT = {
    "redaction": set[str](),
    "errors": {"redaction"},
    "storage_url": {"errors"},
    "numerics": NUMERICS,
    "config": CONFIG,
    "storage": STORAGE,
    "text_encoding": TEXT_ENCODING,
    "data": DATA,
    **dict.fromkeys(STAGES, STAGE),
    "reranking": STAGE | {"instructions"},  # a reranker's prompts quote instructions
    "embeddings": STAGE | {"publishing"},  # vectors are published as slates are
    "slates": STAGE | {"blending"},  # the assembler of an arm's slates holds the arm's blender
    "monitoring": STAGE | STAGES,
    "evaluation": STAGE | STAGES | {"monitoring"},
    "reporting": STAGE | STAGES | {"monitoring", "evaluation"},
    "ray_support": CONFIG | {"config", "storage"},  # storage: what is worth a retry
}
MAY_IMPORT["pipeline"] = MAY_IMPORT["reporting"] | {"reporting", "ray_support"}
MAY_IMPORT["rayrec"] = {"publishing"}  # rayrec/__init__.py: what a serving layer needs
ANY_PACKAGE = {"rayrec.config.__main__"}  # a command, as those of jobs/: it lists the settings of every method
WITH_RAY = {"pipeline", "ray_support"}


def _modules() -> dict[str, Path]:
    """Every module of rayrec and jobs by its dotted name; a package's is that of its __init__.py."""
    modules = {}
    for folder in ("rayrec", "jobs"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES = _modules()
TREES = {name: ast.parse(path.read_text(encoding="utf8")) for name, path in MODULES.items()}
PACKAGES = sorted(path.parent.name for path in (REPOSITORY / "rayrec").glob("*/__init__.py"))


def imported(name: str, *, at_import: bool = False) -> set[str]:
    """The modules that a module imports; `at_import`: without the imports inside functions and `if TYPE_CHECKING`."""
    found = set()
    for node in _at_import(TREES[name]) if at_import else ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{name}: imports are absolute"  # noqa: PT018
            found |= {_module(node.module, alias.name) for alias in node.names}
    return found - {name}


def _at_import(node: ast.AST) -> list[ast.AST]:
    """The statements that run when the module is imported."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return []
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return []
    return [node, *(below for child in ast.iter_child_nodes(node) for below in _at_import(child))]


def _module(module: str, name: str) -> str:
    return f"{module}.{name}" if f"{module}.{name}" in MODULES else module


def package_of(module: str) -> str:
    """`retrieval` for rayrec.retrieval.ease, `errors` for rayrec.errors, `rayrec` for rayrec itself."""
    return module.split(".")[1] if "." in module else module


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_those_below_it(package: str) -> None:
    inside = [name for name in MODULES if name.startswith("rayrec") and package_of(name) == package]
    wrong = {
        name: sorted(
            other
            for other in imported(name)
            if other.startswith("rayrec.") and package_of(other) not in MAY_IMPORT[package] | {package}
        )
        for name in inside
        if name not in ANY_PACKAGE
    }
    assert {name: others for name, others in wrong.items() if others} == {}


def test_the_rule_knows_every_package() -> None:
    assert sorted(MAY_IMPORT) == sorted([*PACKAGES, "errors", "redaction", "storage_url", "rayrec"])


def test_only_the_pipeline_and_ray_support_import_ray() -> None:
    with_ray = {name for name in MODULES if "ray" in {other.split(".")[0] for other in imported(name)}}
    assert {package_of(name) for name in with_ray} <= WITH_RAY


def test_the_package_imports_no_job_benchmark_or_test() -> None:
    others = {"jobs", "benchmarks", "tests"}
    inside = [name for name in MODULES if name.startswith("rayrec")]
    assert not [name for name in inside if {other.split(".")[0] for other in imported(name)} & others]


def test_no_two_modules_have_the_same_file_name() -> None:
    names = Counter(path.name for path in (REPOSITORY / "rayrec").rglob("*.py"))
    assert {name for name, count in names.items() if count > 1} <= {"__init__.py", "__main__.py"}


def test_no_module_is_longer_than_350_lines() -> None:
    lengths = {name: len(path.read_text(encoding="utf8").splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_MODULE} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: imported(name, at_import=True) & set(MODULES) for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_readme_names_every_package() -> None:
    section = (REPOSITORY / "README.md").read_text(encoding="utf8").split("## Architecture")[1].split("\n## ")[0]
    assert [package for package in PACKAGES if f"{package}/" not in section] == []
