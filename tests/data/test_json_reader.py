"""JSON objects in every layout, against Python's json module."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import read_file, rows_of

from rayrec.data.raw_rows import RawBatch
from rayrec.errors import DataError

VALUE = st.one_of(st.none(), st.text(st.sampled_from(list('a"{}[],:\\\n\ré\u2028 ')), max_size=6))
OBJECT = st.fixed_dictionaries({"u": VALUE, "i": VALUE}, optional={"x": st.recursive(VALUE, st.lists, max_leaves=4)})
ONE = '{"u": "1", "i": "2"}'


def read(content: str | bytes, block: int | None = None) -> RawBatch:
    data = content if isinstance(content, bytes) else content.encode()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if block:
            patch.setattr("rayrec.data.text_stream._BLOCK", block)
            patch.setattr("rayrec.data.text_stream.LINES_BLOCK", block)
            patch.setattr("rayrec.data.json_reader.LINES_BLOCK", 4096)  # an object of several lines is seen whole
            patch.setattr("rayrec.data.json_reader.MAX_BATCH_ROWS", 3)
        return read_file(Path(folder), "a.jsonl", data)


LAYOUTS = ("lines", "one line", "commas", "array", "lines of an array", "indented", "indented array", "sequence")


def laid_out(objects: list[object], layout: str) -> str:
    plain = [json.dumps(each, ensure_ascii=False) for each in objects]
    indented = [json.dumps(each, indent=2) for each in objects]
    return {
        "lines": "\n".join(plain),
        "one line": "".join(plain),
        "commas": ",\n".join(plain) + ",",
        "array": "[" + ", ".join(plain) + "]",
        "lines of an array": "[\n" + ",\n".join(plain) + "\n]\n",
        "indented": "\n".join(indented),
        "indented array": json.dumps(objects, indent=2),
        "sequence": "".join(f"\x1e{each}\n" for each in plain),
    }[layout]


@given(
    objects=st.lists(OBJECT, min_size=1, max_size=10),
    layout=st.sampled_from(LAYOUTS),
    mark=st.booleans(),
    block=st.sampled_from([None, 50]),
)
@settings(max_examples=400, deadline=None)
def test_every_layout_gives_the_same_rows(
    objects: list[dict[str, object]], layout: str, mark: bool, block: int | None
) -> None:
    batch = read(("\ufeff" if mark else "") + laid_out(list(objects), layout), block)
    assert rows_of(batch) == [(each["u"], each["i"]) for each in objects]
    assert batch.row.tolist() == list(range(1, len(objects) + 1))
    assert batch.malformed == ()


@given(st.text(st.sampled_from(list('{}[]",:1a\n \\')), max_size=40), st.sampled_from([None, 7]))
@settings(max_examples=300, deadline=None)
def test_rows_and_malformed_rows_are_numbered_from_one(text: str, block: int | None) -> None:
    try:
        batch = read(f"{ONE}\n{text}", block)
    except DataError:
        return
    numbers = sorted([*batch.row.tolist(), *(row.row for row in batch.malformed)])
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 1 + sum(bool(line.strip()) for line in text.split("\n"))


@pytest.mark.parametrize(
    ("content", "rows", "malformed"),
    [
        (ONE * 50, 50, 0),
        (ONE * 20 + '{"u": "1", "i' + ONE * 29, 48, 1),
        (ONE * 20 + "}" + ONE * 2, 22, 1),
        (f"{ONE}\n[1, 2]\n{ONE}", 2, 1),
        (f"[{ONE}, 7, {ONE}]", 2, 1),
        (f"{ONE}\n,\n{ONE}", 2, 1),
        (f'{ONE}\n{{"u": "1", "i\n{ONE}', 2, 1),
        (f'[\n{ONE},\n{{"u": "1", "i": \n{ONE}\n]', 1, 1),
        (ONE.replace(" ", "\n") + "\n" + ONE.replace(" ", "\n"), 2, 0),
        (f"{ONE}\r{ONE}\r", 2, 0),
        (f"{ONE}\r\n\r\n{ONE}\r\n", 2, 0),
        (f"\n\n \n{ONE}\n\n", 1, 0),
        (f"{ONE}\n\ufeff{ONE}", 2, 0),
        ("[" * 100_000, 0, 0),
        (f"{ONE}\n" + '{"a":' * 100_000, 1, 1),
        ("", 0, 0),
    ],
)
def test_every_object_and_every_fault_is_counted(content: str, rows: int, malformed: int) -> None:
    batch = read(content)
    assert (len(batch.row), len(batch.malformed)) == (rows, malformed)


def test_a_path_of_keys_finds_a_value_within_objects(tmp_path: Path) -> None:
    content = b"""{"user": {"id": 17, "n.m": 1}, "_id": {"$oid": "5f"}, "a.b": "c"}
{"user": {"id": 18}, "_id": null}
{"user": "ann", "_id": {"$oid": {"x": [1]}}}
{"user.id": 19}
"""
    batch = read_file(tmp_path, "a.jsonl", content, ("user.id", "_id.$oid", "a.b"))
    assert rows_of(batch) == [("17", "5f", "c"), ("18", None, None), (None, '{"x": ["1"]}', None), ("19", None, None)]
    with pytest.raises(DataError, match=r"no column 'user\.uid'"):
        read_file(tmp_path, "a.jsonl", content, ("user.uid",))


def test_a_wrapped_list_names_the_keys_that_there_are() -> None:
    with pytest.raises(DataError, match="the columns are 'events'"):
        read(f'{{"events": [{ONE}, {ONE}]}}')
