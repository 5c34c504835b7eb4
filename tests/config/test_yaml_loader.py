"""The YAML loader refuses duplicate keys and self-references, and names their lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rayrec.config import load, yaml_loader
from rayrec.errors import ConfigError
from rayrec.instructions.templates import load_templates

CONF = Path(__file__).parents[2] / "conf"
DEMO = CONF.parent / "jobs" / "demo.yaml"


@pytest.mark.parametrize(
    ("text", "key", "first", "again"),
    [
        ("slate: {size: 20}\nname: shop\nslate: {policy: epsilon_greedy}", "slate", 1, 3),
        ("a:\n  b: 1\n  'b': 2", "b", 2, 3),
        ("- {id: x}\n- {id: x, id: y}", "id", 2, 2),
        ("1: a\n1: b", "1", 1, 2),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  y: 1\n  y: 2", "y", 4, 5),
    ],
)
def test_duplicate_key_is_refused_with_its_lines(text: str, key: str, first: int, again: int) -> None:
    with pytest.raises(ConfigError, match=f"key '{key}' .* in line {first} and in line {again}") as caught:
        yaml_loader.load(text, "shop.yaml")
    assert caught.value.where == f"shop.yaml, line {again}"


@pytest.mark.parametrize(
    "text",
    [
        "a: {x: 1}\nb: {x: 1}",
        "base: &base {x: 1}\nown: {<<: *base, x: 2}",
        "deep: {own: &own {<<: &base {x: 1}, x: 2}}\ntop: {<<: *own, x: 3}",
        "'=': 1\n'on': 2",
        "a: &a {b: &b [1]}\nc: [*a, *b, *a]",
        "[" * 50 + "]" * 50,
        *(path.read_text(encoding="utf8") for path in sorted([DEMO, *CONF.glob("*.yaml")])),
    ],
)
def test_other_yaml_loads_as_with_safe_load(text: str) -> None:
    assert yaml_loader.load(text, "here") == yaml.safe_load(text)


def test_keys_are_text_as_it_stands() -> None:
    text = "{1: a, 1.50: b, no: c, 2026-01-31: d, ~: e, 0x1F: f, =: g}"
    assert list(yaml_loader.load(text, "here")) == ["1", "1.50", "no", "2026-01-31", "~", "0x1F", "="]


def test_a_key_is_a_duplicate_whatever_its_type() -> None:
    with pytest.raises(ConfigError, match="key '1' stands twice"):
        yaml_loader.load("1: a\n'1': b", "here")


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("output.root=/x a #b", "output.root", "/x a #b"),
        ("name=shop: winter", "name", "shop: winter"),
        ("instruction.default_request='quoted # text'", "instruction.default_request", "quoted # text"),
        ("data.root=s3://b/a#y", "data.root", "s3://b/a#y"),
        ("arms.variants.1.slate.size=7", "arms.variants.1.slate.size", 7),
        ('data.events={"a.b": 2}', "data.events.a.b", 2.0),
    ],
)
def test_an_override_is_taken_as_it_stands(override: str, key: str, value: object) -> None:
    loaded = load(DEMO, [override]).model_dump()
    for part in key.replace("a.b", "a b").split("."):
        loaded = loaded[part.replace("a b", "a.b")]
    assert loaded == value


def test_a_quoted_part_of_a_key_may_have_dots() -> None:
    assert load(DEMO, ['data.events."a.b"=0.25']).data.events["a.b"] == 0.25


def test_numeric_keys_of_a_file_can_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    text = DEMO.read_text(encoding="utf8").replace("  events: {", "  events: {5: 1.0, ")
    path.write_text(f"{text}\n", encoding="utf8")
    config = load(path, ["data.events.5=0.75"])
    assert config.data.events["5"] == 0.75


def test_an_error_names_the_file_and_the_overrides() -> None:
    with pytest.raises(ConfigError, match=r"slate\.size") as caught:
        load(DEMO, ["slate.size=none"])
    assert caught.value.where == f"{DEMO}, --set slate.size"


def test_the_former_name_of_the_cutoffs_is_read() -> None:
    assert load(DEMO, ["blend={cuts: 1}"]).blend.cutoffs == 1


@pytest.mark.parametrize("override", ["name", "=x", "a..b=1", ".a=1"])
def test_an_override_without_key_or_value_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="cannot read --set"):
        load(DEMO, [override])


def test_duplicate_keys_in_configs_and_overrides_are_refused(tmp_path: Path) -> None:
    demo = DEMO.read_text(encoding="utf8")
    path = tmp_path / "shop.yaml"
    path.write_text(f"{demo}\nslate: {{policy: epsilon_greedy}}\n", encoding="utf8")
    line = demo.count("\n") + 2
    with pytest.raises(ConfigError, match="'slate' stands twice") as caught:
        load(path)
    assert caught.value.where == f"{path}, line {line}"
    with pytest.raises(ConfigError, match="'a' stands twice") as caught:
        load(DEMO, ["arms.variants={a: {}, a: {share: 2}}"])
    assert caught.value.where == "--set arms.variants, line 1"


def test_duplicate_keys_in_templates_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("- id: one\n  text: likes {preference}\n  text: wants {intention}\n", encoding="utf8")
    with pytest.raises(ConfigError, match="'text' stands twice") as caught:
        load_templates(str(path))
    assert caught.value.where == f"{path}, line 3"


@pytest.mark.parametrize("text", ["&a [*a]", "&a {b: *a}", "&a {b: {c: [1, *a]}}", "x: &a\n  <<: *a", "&a {*a : 1}"])
def test_self_reference_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"\*a stands within what it refers to") as caught:
        yaml_loader.load(f"one: 1\nother: {text}" if "\n" not in text else text, "shop.yaml")
    assert caught.value.where == "shop.yaml, line 2"


@pytest.mark.parametrize("opening", ["[", "{x: ", "- ", "? "])
@pytest.mark.parametrize("levels", [51, 300, 1500, 20_000])
def test_too_deep_nesting_is_refused(opening: str, levels: int) -> None:
    with pytest.raises(ConfigError, match="more than 50 levels"):
        yaml_loader.load(opening * levels, "shop.yaml")


@pytest.mark.parametrize("value", ["2026-13-45", "1" * 5000])
def test_invalid_dates_and_numbers_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="not a value: "):
        yaml_loader.load(f"name: {value}", "shop.yaml")
    assert yaml_loader.load(f"name: '{value}'", "shop.yaml") == {"name": value}


@pytest.mark.parametrize("value", ["[" * 3000, "{a: " * 3000, "&a [*a]", "&a {b: *a}", "2026-13-45"])
@pytest.mark.parametrize("key", ["name", "denoise.settings", "arms.variants.llm.denoise"])
def test_invalid_overrides_raise_config_errors(key: str, value: str) -> None:
    with pytest.raises(ConfigError):
        load(DEMO, [f"{key}={value}"])


def bomb(levels: int, form: str) -> str:
    """A few lines whose aliases stand for 10^levels values."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]" if form == "list" else "a0: &a0 {x: 1}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        if form == "list":
            lines.append(f"a{level}: &a{level} [{aliases}]")
        elif form == "mapping":
            lines.append(f"a{level}: &a{level} {{{', '.join(f'k{n}: *a{level - 1}' for n in range(10))}}}")
        else:
            lines.append(f"a{level}: &a{level} {{<<: [{aliases}], y: 1}}")
    return "\n".join(lines)


@pytest.mark.parametrize("form", ["list", "mapping", "merge"])
@pytest.mark.parametrize("levels", [7, 45])
def test_aliases_that_stand_for_too_many_values_are_refused(form: str, levels: int) -> None:
    with pytest.raises(ConfigError, match="values, with every alias written out; allowed 100,000"):
        yaml_loader.load(bomb(levels, form), "shop.yaml")
    with pytest.raises(ConfigError, match="with every alias written out"):
        load(DEMO, ["data={" + bomb(levels, form).replace("\n", ", ") + "}"])


def test_aliases_that_stand_for_a_few_thousand_values_are_read() -> None:
    assert yaml_loader.load(bomb(3, "list"), "here") == yaml.safe_load(bomb(3, "list"))


def test_aliases_that_stand_for_many_levels_are_refused() -> None:
    chain = "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 20_000))])
    with pytest.raises(ConfigError, match="more than 50 levels, with every alias written out"):
        yaml_loader.load(chain, "shop.yaml")


def test_a_text_of_many_megabytes_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ConfigError, match="characters are too many"):
        yaml_loader.load("x" * 5_000_000, "shop.yaml")
