"""Any config, YAML, override, template or instruction text: a user error with words, or a use that holds together.

`try_*` take one input each; hypothesis makes the inputs, here for the tests and in hundreds for the soak.
"""

from __future__ import annotations

import copy
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from small_shop import good_config

from rayrec.config import Config, load, yaml_loader
from rayrec.data.input_files import instruction_files
from rayrec.errors import ConfigError, RayrecError
from rayrec.experiments.arm_plan import plan_arms
from rayrec.instructions.facet_matching import FacetMatcher
from rayrec.instructions.facet_scheme import FacetScheme
from rayrec.instructions.instruction_table import read_instructions
from rayrec.instructions.templates import FIELDS, load_templates, render
from rayrec.instructions.text_cleaning import clean

HANG_S = 120  # an input that takes so long hangs

ODD_TEXT = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            *("", " ", "null", "~", "true", "0x1F", "1e999", ".nan", "-.inf", "2026-02-30", "12:30:45", "1_000"),
            *(
                "a.b",
                "a=b",
                "../..",
                "s3://",
                "s3://b/p",
                "{title}",
                "{",
                "}",
                "%s",
                "\\",
                "*",
                "&a",
                "!!python/object:a",
            ),
            *("\u202e", "\ufeff", "\x00", "\ud7ff", "é" * 300, "٣", "😀", "((", "(?P<x>a)", "a" * 2_000),
        ]
    ),
)
ODD_NUMBER = st.one_of(
    st.integers(-3, 3), st.integers(), st.sampled_from([1 << 31, 1 << 63, 1 << 64, 10**400]), st.floats()
)
ODD_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), ODD_NUMBER, ODD_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ODD_TEXT, inner, max_size=3)),
    max_leaves=6,
)
YAML_TEXT = st.one_of(
    st.text(st.sampled_from("ab01 .:-[]{},&*!|>'\"#%@`\n\t?<=~\\"), max_size=60),
    ODD_VALUE.map(lambda value: yaml.safe_dump(value, allow_unicode=True)),
    st.text(max_size=40),
)


@cache
def whole_config() -> dict[str, Any]:
    """A config in which every section and setting is written out."""
    with tempfile.TemporaryDirectory() as folder:
        return load(_file(folder, good_config())).model_dump(mode="json")


def _file(folder: str, content: Any) -> Path:
    path = Path(folder) / "config.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf8")
    return path


@cache
def places() -> tuple[tuple[Any, ...], ...]:
    """The path of every key of the whole config."""

    def below(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in pairs:
            yield (*path, key)
            yield from below(child, (*path, key))

    return tuple(below(whole_config(), ()))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """TimeoutError instead of a hang."""

    def late(*_: object) -> None:
        raise TimeoutError(f"no end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def has_words(error: RayrecError) -> None:
    assert 10 < len(str(error)) < 20_000, str(error)[:300]


def _use(config: Config) -> None:
    """What every job does with a config before it reads data."""
    plan_arms(config).describe()
    assert Config.model_validate(config.model_dump(mode="json")).fingerprint == config.fingerprint


def _has(node: Any, key: Any) -> bool:
    if isinstance(node, dict):
        return key in node
    return isinstance(node, list) and isinstance(key, int) and key < len(node)


def try_config(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    """A whole config with odd values at some places."""
    content = copy.deepcopy(whole_config())
    for path, value in changes:
        node = content
        for key in path[:-1]:
            node = node[key] if _has(node, key) else None
        if isinstance(node, dict) or _has(node, path[-1]):
            node[path[-1]] = value
    with tempfile.TemporaryDirectory() as folder:
        try:
            _use(load(_file(folder, content)))
        except RayrecError as error:
            has_words(error)


def try_override(override: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            _use(load(_file(folder, good_config()), [override]))
        except RayrecError as error:
            has_words(error)


def try_bytes(content: bytes) -> None:
    """A file that is no config."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_bytes(content)
        try:
            load(path)
        except ConfigError as error:
            has_words(error)


def try_yaml(text: str) -> None:
    """What the loader takes, it takes as PyYAML's safe loader does; but keys are text as they stand."""
    try:
        loaded = yaml_loader.load(text, "here")
    except (ConfigError, yaml.YAMLError):
        return
    expected = yaml.safe_load(text)
    if _has_text_keys(expected):
        assert repr(loaded) == repr(expected)


def _has_text_keys(value: Any) -> bool:
    """Whether all keys in it are text: a number, a date or nothing as a key has lost its spelling here."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_has_text_keys, value.values()))
    return not isinstance(value, list | tuple | set) or all(map(_has_text_keys, value))


def try_templates(entries: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "templates.yaml"
        path.write_text(entries if isinstance(entries, str) else yaml.safe_dump(entries), encoding="utf8")
        try:
            found = load_templates(str(path))
        except RayrecError as error:
            has_words(error)
            return
    for template in found.templates:
        text = render(template, dict.fromkeys(FIELDS, "{title} {"))
        assert text.count("{title} {") == len(template.fields)


TEMPLATE_TEXT = st.lists(
    st.one_of(ODD_TEXT, st.sampled_from([*(f"{{{field}}}" for field in FIELDS), "A: ", "Items:\n", "{{", "{unknown}"])),
    max_size=6,
).map("".join)


@cache
def _template_axes() -> dict[str, list[str]]:
    shipped = load_templates().templates
    keys = ("preference", "intention", "task_form", "split")
    return {key: sorted({str(getattr(template, key)) for template in shipped}) for key in keys}


def template_entries() -> st.SearchStrategy[Any]:
    good = st.fixed_dictionaries(
        {
            "id": st.one_of(st.from_regex(r"[a-z0-9_.-]{1,10}", fullmatch=True), ODD_TEXT),
            "text": st.one_of(TEMPLATE_TEXT, ODD_VALUE),
            **{key: st.one_of(st.sampled_from(values), ODD_VALUE) for key, values in _template_axes().items()},
        }
    )
    plain = st.fixed_dictionaries(
        {
            "id": st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True),
            "text": TEMPLATE_TEXT,
            **{key: st.sampled_from(values) for key, values in _template_axes().items()},
        }
    )
    return st.one_of(st.lists(st.one_of(good, plain, ODD_VALUE), max_size=3), ODD_VALUE, YAML_TEXT)


SCHEME = FacetScheme(
    ("category", "category", "decade", "below", "word"),
    ("comedy", "science fiction", "1990s", "5", "zombies"),
    {},
)
REQUEST = st.lists(
    st.one_of(
        ODD_TEXT, st.sampled_from(["comedy", "no", "not", "without", "1990s", "under 5", ",", "but", "or", "isn't"])
    ),
    max_size=12,
).map(" ".join)


def try_request(text: str) -> None:
    """Cleaning is idempotent, bounded and leaves nothing invisible; matching is a function of any text."""
    for limit in (0, 1, 7, 400):
        once = clean(text, limit)
        assert clean(once, limit) == once
        assert len(once) <= limit
        assert not any(ord(char) < 32 for char in once)
    matches = FacetMatcher(SCHEME)(clean(text, 400))
    assert not set(matches.include) & set(matches.exclude)
    assert set(matches.include) | set(matches.exclude) <= set(range(len(SCHEME.kind)))


def try_instructions(rows: list[tuple[str, str, str, str]]) -> None:
    """Every row of a table is an instruction or in quarantine."""
    config = good_config()
    config["data"]["instructions"] = {"path": "instructions.parquet", "max_quarantine_share": 1.0}
    names = ("user_id", "arm", "preference", "intention")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        columns = list(zip(*rows, strict=True)) or [()] * 4
        table = pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)})
        pa.parquet.write_table(table, data / "instructions.parquet")
        loaded = load(_file(folder, config), [f"data.root={data}"]).data
        try:
            read = read_instructions(loaded, instruction_files(loaded), ["control"], 100)
        except RayrecError as error:
            has_words(error)
            return
    assert sum(read.rows.values()) == len(rows) == read.instructions.num_rows + read.quarantine.num_rows
    pairs = read.instructions.select(["user_id", "arm"]).to_pylist()
    assert len({(pair["user_id"], pair["arm"]) for pair in pairs}) == len(pairs)


def inputs() -> dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any]]]:
    """What is tried, by name, and the strategy of its inputs."""
    change = st.tuples(st.sampled_from(places()), ODD_VALUE)
    key = st.one_of(st.sampled_from([".".join(map(str, path)) for path in places()]), ODD_TEXT)
    override = st.tuples(key, st.sampled_from(["=", "==", "", " = "]), st.one_of(ODD_TEXT, YAML_TEXT)).map("".join)
    cell = st.one_of(st.sampled_from(["ann", "bob", "*", "control", ""]), ODD_TEXT)
    return {
        "configs": (try_config, st.lists(change, min_size=1, max_size=3)),
        "overrides": (try_override, override),
        "config files": (
            try_bytes,
            st.one_of(st.binary(max_size=80), YAML_TEXT.map(lambda t: t.encode("utf8", "replace"))),
        ),
        "YAML texts": (try_yaml, YAML_TEXT),
        "templates": (try_templates, template_entries()),
        "requests": (try_request, REQUEST),
        "instruction tables": (try_instructions, st.lists(st.tuples(cell, cell, cell, REQUEST), max_size=6)),
    }


def fuzz(name: str, examples: int, seed: int | None = None) -> int:
    """Try so many inputs; raises what an input raises, as its smallest example. The number of those tried."""
    (attempt, strategy), tried = inputs()[name], [0]

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(given_input: Any) -> None:
        tried[0] += 1
        with within(HANG_S):
            attempt(given_input)

    (run if seed is None else seeded(seed)(run))()
    return tried[0]
