"""Only rayrec.storage.layout builds paths under `output.root`; its parsers invert its builders."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from rayrec.storage import layout

ROOT = Path(__file__).parents[2]
DAY = date(2011, 8, 31)
TOP = "|".join(
    (*layout.PRODUCTS, layout.RUNS, layout.WORK, layout.MODELS, layout.QUARANTINE, layout.REPORTS, layout.ERASURE)
)
PATH = re.compile(rf"^({TOP})/|(^|/|-)(dt|shard|split)=|^/?[\w.-]*\.(arrow|parquet|json|safetensors|shuffle|html)$")


def texts(tree: ast.AST) -> Iterator[str]:
    """Strings that are joined with others: parts of f-strings and operands of +, without docstrings."""
    for node in ast.walk(tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.JoinedStr):
            parts = node.values
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts = [node.left, node.right]
        yield from (part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))


def test_no_other_module_builds_a_path_under_the_output_root() -> None:
    files = [file for folder in ("rayrec", "jobs") for file in (ROOT / folder).rglob("*.py")]
    found = {
        f"{file.relative_to(ROOT)}: {text!r}"
        for file in files
        if file != ROOT / "rayrec/storage/layout.py"
        for text in texts(ast.parse(file.read_text()))
        if PATH.search(text)
    }
    assert len(files) > 100
    assert not found


def test_parsing_a_path_returns_its_parts() -> None:
    path = layout.published_path("slates", DAY, "arm", "llm", 7, "0a1b", "ff")
    assert path == "slates/dt=2011-08-31/arm=llm/shard=0007-0a1b-ff.parquet"
    assert layout.parse_published_path(path) == (DAY, 7, "0a1b")
    assert layout.parse_published_path(layout.rewritten_path(path, "ee")) == (DAY, 7, "0a1b")
    assert layout.slates_date(layout.slates_folder(DAY)) == DAY
    assert layout.report_data_date(layout.report_data_path(DAY)) == DAY
    assert layout.text_ablation_method(layout.text_ablation_path(DAY, "0a1b", "pointwise", 7)) == "pointwise"
    assert layout.erasure_request_id(layout.erasure_request_path("0a1b")) == "0a1b"
    for other in (layout.manifest_path(DAY, "embeddings"), layout.metrics_path(DAY), path, "manifest.json"):
        assert layout.slates_date(other) is layout.report_data_date(other) is None
    assert layout.slates_date("embeddings/dt=2011-08-31") is layout.slates_date("slates/dt=2011-08") is None
    assert layout.path_date("models/llm/dt=2011-08-31/x") is None
