"""Templates: every cell in both splits, validated when loaded, rendered by plain substitution."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rayrec.errors import ConfigError, RayrecError
from rayrec.instructions.templates import (
    FIELDS,
    INTENTIONS,
    PREFERENCES,
    SPLITS,
    TASK_FORMS,
    load_templates,
    render,
)

GOOD = {
    "id": "one",
    "preference": "P2",
    "intention": "I2",
    "task_form": "T0",
    "split": "train",
    "text": "{preference} wants {intention}. Is it this? {item}",
}
SHIPPED = load_templates()


def written(folder: Path, *entries: Any) -> str:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(list(entries), allow_unicode=True), encoding="utf8")
    return str(path)


def test_every_cell_has_templates_in_both_splits() -> None:
    assert len(SHIPPED) >= 39
    for preference, intention, form, split in product(PREFERENCES, INTENTIONS, TASK_FORMS, SPLITS):
        ways = {"P0": [False], "P1": [True], "P2": [False, True]}[preference]
        for history in ways:
            cell = {"preference": preference, "intention": intention, "task_form": form}
            assert SHIPPED.of(**cell, split=split, history=history), (cell, split, history)


def test_splits_share_no_wording() -> None:
    def wordings(split: str) -> set[str]:
        return {" ".join(words for words, _ in each.parts) for each in SHIPPED if each.split == split}

    assert not wordings("train") & wordings("held_out")
    assert len(wordings("train") | wordings("held_out")) == len(SHIPPED)


def test_rendering_replaces_every_field() -> None:
    fields = {name: f"<{name}>" for name in FIELDS}
    for each in SHIPPED:
        text = render(each, fields)
        assert text == each.text.replace("{", "<").replace("}", ">")
        assert all(f"<{name}>" in text for name in each.fields)


def test_candidate_fields_come_last_so_that_prompts_share_a_prefix() -> None:
    fields = dict.fromkeys(FIELDS, "same")
    for each in SHIPPED:
        if each.task_form == "T0":
            beginning = each.text.index("{item}")
            assert "{" not in each.text[beginning + 1 :]
            one, other = (render(each, fields | {"item": item}) for item in ("tea", "cup"))
            assert one[: len(one) - len("tea")] == other[: len(other) - len("cup")]
        if each.task_form == "T2" and each.has_history:
            assert render(each, fields | {"history": ""}) == render(each, fields).removesuffix("same")


LIKE_FIELDS = ["{item}", "{0.__class__}", "{{ 7*7 }}", "%(item)s", "$item", "{preference}"]


@given(st.dictionaries(st.sampled_from(FIELDS), st.text() | st.sampled_from(LIKE_FIELDS), min_size=len(FIELDS)))
def test_values_are_inserted_verbatim_and_never_parsed(fields: dict[str, str]) -> None:
    for each in SHIPPED:
        expected = "".join(words + fields.get(str(field), "") for words, field in each.parts)
        assert render(each, fields) == expected


def test_missing_field_is_an_error() -> None:
    with pytest.raises(KeyError, match="intention"):
        render(SHIPPED.of(preference="P0", intention="I1", task_form="T2")[0], {})


def test_pick_is_deterministic_and_reaches_every_template() -> None:
    cell = {"preference": "P1", "intention": "I2", "task_form": "T2"}
    picked = [SHIPPED.pick(**cell, key=key) for key in range(50)]
    assert picked == [SHIPPED.pick(**cell, key=key) for key in range(50)]
    assert set(picked) == set(SHIPPED.of(**cell))
    assert {each.split for each in picked} == {"train"}
    assert SHIPPED.pick(**cell, key=7, split="held_out") not in picked


def test_empty_cell_is_an_error_that_names_it(tmp_path: Path) -> None:
    own = load_templates(written(tmp_path, GOOD))
    assert own.pick(preference="P2", intention="I2", task_form="T0", key=2**62).id == "one"
    with pytest.raises(ConfigError, match=r"no template for P1 I0 T3, split held_out"):
        own.pick(preference="P1", intention="I0", task_form="T3", split="held_out", key=0)


def test_digest_depends_on_the_texts(tmp_path: Path) -> None:
    digests = {load_templates(written(tmp_path, GOOD | change)).digest for change in ({}, {"text": GOOD["text"] + "?"})}
    digests |= {load_templates(written(tmp_path, GOOD | {"split": "held_out"})).digest}
    assert len(digests | {SHIPPED.digest}) == 4
    assert load_templates().digest == SHIPPED.digest
    assert load_templates(written(tmp_path, GOOD)).digest in digests


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"text": "Is it {item} for {intention}?"}, r"\{preference\} is missing, which P2 I2 T0 needs"),
        ({"preference": "P1"}, r"\{history\} is missing"),
        ({"intention": "I0"}, r"\{intention\} has no place in P2 I0 T0"),
        ({"text": GOOD["text"] + " {candidates}"}, r"\{candidates\} has no place"),
        ({"text": GOOD["text"] + " {titel}"}, r"unknown field \{titel\}"),
        ({"text": GOOD["text"] + " {item.__class__}"}, r"unknown field \{item.__class__\}"),
        ({"text": GOOD["text"] + " {}"}, r"unknown field \{\}"),
        ({"text": GOOD["text"] + " {item}"}, r"\{item\} is there more than once"),
        ({"text": GOOD["text"] + " {{"}, "a brace that belongs to no"),
        ({"text": "{item} {preference} {intention} no?"}, r"\{item\} must stand behind all other fields"),
        ({"task_form": "T1"}, r"\{first\} is missing"),
        (
            {"task_form": "T1", "text": "{preference} {intention} is {second} or {first}?"},
            r"\{first\} \{second\} must stand behind",
        ),
        (
            {"task_form": "T1", "text": "{preference} {intention}\n1: {first}\n2: {second}"},
            r"the letter A must stand before \{first\}",
        ),
        (
            {"task_form": "T1", "text": "{preference} {intention}\nA: {first}\nor: {second}"},
            r"the letter B must stand before \{second\}",
        ),
        ({"task_form": "T2", "text": "Take {history} of {preference} {intention}"}, r"\{history\} must end the text"),
        ({"text": "  \n "}, "no words"),
        ({"text": "{preference} {intention} {item}"}, "no words"),
        ({"text": GOOD["text"] + "x" * 2000}, "characters, allowed 2,000"),
        ({"text": GOOD["text"] + "\u202e"}, r"invisible character U\+202E"),
        ({"text": 7}, "`text` is not text"),
        ({"preference": "P3"}, "`preference` is 'P3'; it is one of P0, P1, P2"),
        ({"split": ["train"]}, "`split` is not text"),
        ({"note": "x"}, "has an unknown key 'note'"),
    ],
)
def test_invalid_template_is_refused_with_file_and_id(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    path = written(tmp_path, GOOD | {"id": "fine"}, GOOD | change)
    with pytest.raises(ConfigError, match=what) as caught:
        load_templates(path)
    assert caught.value.where == path
    assert caught.value.what.startswith("one: ")


def test_missing_keys_duplicate_and_invalid_ids_are_refused(tmp_path: Path) -> None:
    for entry, what in (
        ({key: value for key, value in GOOD.items() if key != "split"}, "one: has no key 'split'"),
        ({key: value for key, value in GOOD.items() if key != "id"}, "template 2: `id` is"),
        (GOOD | {"id": "No Spaces"}, "template 2: `id` is"),
        (GOOD | {"id": "fine"}, "fine: duplicate id"),
        ("just words", "template 2: a template is a mapping"),
    ):
        with pytest.raises(ConfigError, match=what):
            load_templates(written(tmp_path, GOOD | {"id": "fine"}, entry))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"- {id: [", "not valid YAML"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"", "is a list"),
        (b"id: one", "is a list"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"- x\n" * 300_000, "bytes are too many"),
        (b"- &a [x, x]\n" + b"- &b [*a, *a]\n- [*b, *b]\n", "template 1: a template is a mapping"),
    ],
)
def test_file_without_a_list_of_templates_is_refused(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=what) as caught:
        load_templates(str(path))
    assert caught.value.where == str(path)


def test_missing_file_is_a_readable_error(tmp_path: Path) -> None:
    with pytest.raises(RayrecError, match="no such file"):
        load_templates(str(tmp_path / "nowhere" / "own.yaml"))
