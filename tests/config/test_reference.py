"""Every config key and method setting is described, and docs/config.md contains all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayrec.config import Config
from rayrec.config.__main__ import main
from rayrec.config.reference import TypeDescriber, sections_in
from rayrec.config.registry import Registry, registries
from rayrec.config.section import Section
from rayrec.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "config.md"
METHODS = [pytest.param(known, name, id=f"{known.key}-{name}") for known in registries().values() for name in known]
LONGEST_CELL = 300  # characters


def sections(section: type[Section]) -> Iterator[type[Section]]:
    yield section
    for field in section.model_fields.values():
        for kind, _ in sections_in(field.annotation):
            yield from sections(kind)


def page() -> str:
    return PAGE.read_text(encoding="utf8")


def test_docs_page_equals_command_output(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--reference"])
    assert capsys.readouterr().out == page(), "run: python -m rayrec.config --reference > docs/config.md"


@pytest.mark.parametrize("section", dict.fromkeys(sections(Config)))
def test_every_section_and_key_has_a_description(section: type[Section]) -> None:
    assert section.__dict__.get("__doc__"), "the section says nothing"
    assert [key for key, field in section.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(("known", "name"), METHODS)
def test_every_method_and_setting_has_a_description(known: Registry[Any], name: str) -> None:
    assert known[name].__doc__, "the method says nothing"
    fields = known.settings_class(name).model_fields
    assert {key for key, field in fields.items() if not field.description} == set()


@pytest.mark.parametrize(("known", "name"), METHODS)
def test_an_unknown_setting_is_refused_with_the_known_ones(known: Registry[Any], name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        known.settings(name, {"~": 0})
    keys = ", ".join(known.settings_class(name).model_fields) or "none"
    assert refused.value.what == f"~: unknown key; known keys: {keys}"


def test_every_key_and_every_setting_has_a_row() -> None:
    keys = {key for section in sections(Config) for key in section.model_fields}
    keys |= {
        key for known in registries().values() for name in known for key in known.settings_class(name).model_fields
    }
    assert {key for key in keys if f"\n| `{key}` | " not in page()} == set()


def test_every_link_resolves_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", page(), re.MULTILINE)
    there = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert len(there) == len(headings), "two headings have the same name"
    assert set(re.findall(r"\(#([^)]*)\)", page())) <= there


def test_table_cells_are_short() -> None:
    cells = [cell for line in page().splitlines() if line.startswith("|") for cell in line.split(" | ")]
    assert [cell for cell in cells if len(cell) > LONGEST_CELL] == []


@pytest.mark.parametrize(
    ("key", "takes"),
    [
        ("data.window_days", "whole number, 1 to 36,500"),
        ("data.items.title", "column or `null`"),
        ("data.items.attributes", "name → column"),
        ("data.interactions.require", "list of section"),
        ("tuning.feedforward", "whole number, ≥ 64, in steps of 64"),
        ("tuning.item_dropout", "number, ≥ 0, < 1"),
        ("rerank.fields", "list of `category`, `description`"),
        ("resources.rerank_actors", "whole number or `[whole number, whole number]`"),
        ("arms.assignment", "`all`, `split`"),
        ("denoise.settings", "mapping"),
    ],
)
def test_types_are_described_in_words(key: str, takes: str) -> None:
    *path, last = key.split(".")
    section: Any = Config
    for name in path:
        section = section.model_fields[name].annotation
    field = section.model_fields[last]
    assert TypeDescriber(dict.fromkeys(sections(Config), "section")).describe(field.annotation, field.metadata) == takes
