"""What the documents tell a reader to do can be done: links lead somewhere, commands, options and keys exist."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from rayrec.config import Config, load
from rayrec.config.json_schema import json_schema
from rayrec.data.schemas import SLATE

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "deploy" / "README.md",
    *sorted((REPOSITORY / "benchmarks").rglob("*.md")),
]
WRITTEN = [document for document in DOCUMENTS if document.name != "config.md"]  # that one is made from the code
_YOURS = {"mine.yaml", "trial.yaml", "C", "..."}  # configs that the reader writes
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(r"python -m (jobs|benchmarks)\.(\w+)([^\n#|;]*)")
_SET = re.compile(r"--set\s+([a-z_]+\.[a-z_.]+)=")
_KEY = re.compile(rf"(?:{'|'.join(Config.model_fields)})(?:\.[a-z_]+)+")


def named(document: Path) -> str:
    return str(document.relative_to(REPOSITORY))


def blocks(document: Path, language: str) -> list[str]:
    return [body for kind, body in _FENCE.findall(document.read_text(encoding="utf8")) if kind == language]


def commands() -> Iterator[tuple[str, str, str, str]]:
    """(document, package, module, arguments) of every command of ours, one line each."""
    for document in WRITTEN:
        text = document.read_text(encoding="utf8").replace("\\\n", " ")
        pieces = [line for _, body in _FENCE.findall(text) for line in body.splitlines()]
        pieces += [code.replace("\n", " ") for code in _CODE.findall(_FENCE.sub("", text))]
        for piece in pieces:
            for package, module, arguments in _COMMAND.findall(piece):
                yield named(document), package, module, arguments


def options(arguments: str) -> list[str]:
    return [word for word in arguments.replace("[", " ").replace("]", " ").split() if word.startswith("--")]


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.+)$", _FENCE.sub("", document.read_text(encoding="utf8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_link_leads_somewhere(document: Path) -> None:
    lost = []
    for link in _LINK.findall(_FENCE.sub("", document.read_text(encoding="utf8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_the_jobs_take_the_options_that_the_documents_give_them() -> None:
    given = [each for each in commands() if each[1] == "jobs"]
    assert len(given) > 10
    for document, _, job, arguments in given:
        command = typer.main.get_command(importlib.import_module(f"jobs.{job}").main)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {option.partition("=")[0] for option in options(arguments)} <= known, f"{document}: jobs.{job}"
        required = {parameter.opts[0] for parameter in command.params if parameter.required}
        if "--config" in arguments and "…" not in arguments.split("--set")[0]:
            assert required <= set(options(arguments)), f"{document}: jobs.{job} {arguments}"
        for config in re.findall(r"--config (\S+)", arguments):
            assert config in _YOURS or (REPOSITORY / config).is_file(), f"{document}: {config}"


def test_the_benchmarks_take_the_options_that_the_documents_give_them() -> None:
    given = [each for each in commands() if each[1] == "benchmarks" and each[2] != "X"]
    assert len(given) > 10
    for document, _, name, arguments in given:
        source = (REPOSITORY / "benchmarks" / f"{name}.py").read_text(encoding="utf8")
        unknown = {option for option in options(arguments) if f'"{option}"' not in source}
        assert unknown == set(), f"{document}: benchmarks.{name}"
        if 'add_argument("--data"' in source and "…" not in arguments and options(arguments):
            assert "--data" in arguments, f"{document}: benchmarks.{name} {arguments}"


def has_key(schema: dict[str, Any], path: list[str]) -> bool:
    """Whether a config may have this key; below a mapping of names anything may stand."""
    node = schema
    for key in path:
        choices = [node, *node.get("anyOf", ()), *node.get("allOf", ())]
        resolved = [schema["$defs"][each["$ref"].rsplit("/", 1)[1]] if "$ref" in each else each for each in choices]
        if any("additionalProperties" in each and each["additionalProperties"] is not False for each in resolved):
            return True
        found = [each["properties"][key] for each in resolved if key in each.get("properties", {})]
        if not found:
            return False
        node = found[0]
    return True


def test_every_setting_that_the_documents_name_is_a_key_of_the_config() -> None:
    schema = json_schema()
    assert has_key(schema, ["resources", "rerank_num_gpus"])
    assert not has_key(schema, ["resources", "rerank_gpus"])
    for document in WRITTEN:
        text = document.read_text(encoding="utf8")
        codes = [re.match(r"[\w.]*", code)[0] for code in _CODE.findall(_FENCE.sub("", text))]  # type: ignore[index]
        keys = {code for code in codes if _KEY.fullmatch(code) and not code.endswith((".py", ".yaml", ".json"))}
        for key in keys | set(_SET.findall(text)):
            assert has_key(schema, key.split(".")), f"{named(document)}: {key}"


def minimal() -> dict[str, Any]:
    """The config that the README calls enough."""
    (text,) = blocks(REPOSITORY / "README.md", "yaml")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    inside = {key: merged(base[key], more[key]) for key in base.keys() & more.keys() if isinstance(base[key], dict)}
    return base | more | inside


@pytest.mark.parametrize(
    ("document", "text"),
    [(named(document), text) for document in WRITTEN for text in blocks(document, "yaml")],
    ids=lambda value: value if value.endswith(".md") else "",
)
def test_every_yaml_block_is_a_config_that_the_job_takes(document: str, text: str, tmp_path: Path) -> None:
    written = tmp_path / "config.yaml"
    content = merged(minimal(), yaml.safe_load(text))
    written.write_text(yaml.safe_dump(content, sort_keys=False))
    assert load(written, [f"output.root={tmp_path}"]).name == content["name"]


@pytest.mark.parametrize("document", WRITTEN, ids=named)
def test_every_path_of_the_repository_that_a_document_names_is_there(document: Path) -> None:
    """CONTRIBUTING.md also names the new files of its examples."""
    text = _FENCE.sub("", document.read_text(encoding="utf8"))
    paths = set(re.findall(r"`((?:rayrec|jobs|conf|tests|deploy|requirements|benchmarks)/[\w./-]+)`", text))
    new = {"rayrec/retrieval/rising.py", "rayrec/denoising/max_age.py"}
    new |= {"rayrec/reranking/text/question.py", "rayrec/slates/uniform.py"}
    assert {path for path in paths - new if not (REPOSITORY / path).exists()} == set()


def test_the_readme_reads_slates_as_the_reader_does() -> None:
    (python,) = blocks(REPOSITORY / "README.md", "python")
    assert f"# pa.Table: {', '.join(SLATE.names)}" in python


def test_every_symptom_is_a_message_of_the_code_and_made_by_the_test_that_its_row_names() -> None:
    page = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf8")
    rows = page.split("| symptom |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(rows) > 10
    code = "".join(path.read_text() for folder in ("rayrec", "jobs") for path in (REPOSITORY / folder).rglob("*.py"))
    for row in rows:
        symptom, _, _, tried = row.strip("| ").split(" | ")
        tests = [(REPOSITORY / path).read_text(encoding="utf8") for path in _CODE.findall(tried)]
        assert tests, row
        assert all(words in code and words in "".join(tests) for words in _CODE.findall(symptom)), row
