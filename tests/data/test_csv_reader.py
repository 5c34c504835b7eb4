"""CSV files against Python's csv module, and what happens to lines that break the grammar."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import read_file, rows_of

from rayrec.errors import ConfigError, DataError

CELL = st.text(st.sampled_from(list("ab ,;\"\n\r\t\\'x\u00e9\0")), max_size=6)
ROWS = st.lists(st.tuples(CELL, CELL, CELL), max_size=12)


def fields(content: bytes, columns: tuple[str, ...] = ("u", "i", "x"), **source: object) -> list[tuple[object, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        return rows_of(read_file(Path(folder), "a.csv", content, columns, **source))


@given(
    rows=ROWS,
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    block=st.sampled_from([1 << 20, 16]),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_every_legal_file_is_read_as_the_csv_module_reads_it(
    rows: list[tuple[str, str, str]], delimiter: str, end: str, block: int, data: st.DataObject
) -> None:
    def written(cell: str) -> str:
        plain = not set(cell) & {delimiter, "\r", "\n"} and not cell.startswith('"')
        quoted = '"' + cell.replace('"', '""') + '"'
        return cell if plain and data.draw(st.booleans()) else quoted

    content = end.join(delimiter.join(map(written, row)) for row in [("u", "i", "x"), *rows])
    oracle = [tuple(row) for row in csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)]
    assert oracle[1:] == rows
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("rayrec.data.csv_reader._BATCH_BYTES", block)
        patch.setattr("rayrec.data.csv_reader._BATCH_ROWS", 3)
        patch.setattr("rayrec.data.text_stream._BLOCK", block)
        batch = read_file(Path(folder), "a.csv", content.encode(), ("u", "i", "x"), delimiter=delimiter)
    assert rows_of(batch) == rows
    assert batch.malformed == ()
    assert batch.row.tolist() == list(range(1, len(rows) + 1))


@given(text=st.text(st.sampled_from(list('ab,"\n\r\\ ')), max_size=60), block=st.sampled_from([1 << 20, 8]))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_numbered_rows_whatever_the_blocks(text: str, block: int) -> None:
    """Rows and malformed rows together have the numbers 1 to n."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("rayrec.data.csv_reader._ESCAPED_SHARE", 2)
        patch.setattr("rayrec.data.text_stream._BLOCK", block)
        patch.setattr("rayrec.data.csv_reader._BATCH_BYTES", block)
        batch = read_file(Path(folder), "a.csv", ("u,i\n" + text).encode())
    numbers = sorted([*batch.row.tolist(), *(row.row for row in batch.malformed)])
    assert numbers == list(range(1, len(numbers) + 1))
    lines = [line for line in text.replace("\r", "\n").split("\n") if line]
    if '"' not in text and not any(line.endswith(",") for line in lines):
        assert rows_of(batch) == [tuple(line.split(",")) for line in lines if line.count(",") == 1]
        assert len(numbers) == len(lines)


def test_a_field_of_several_lines_may_hold_what_looks_like_a_row() -> None:
    content = b'u,i,x\n1,"first\n2,two,2\n""third"", line",a\n4,b,c\n'
    assert fields(content) == [("1", 'first\n2,two,2\n"third", line', "a"), ("4", "b", "c")]


@pytest.mark.parametrize(
    ("lines", "good", "bad", "says"),
    [
        ('b,"2,2\nc,3,3\nd,"x, y",4\ne,5,5', "cde", [1], "text follows the closing quote"),
        ('b,"2,2\nc,3,3', "c", [1], "opens in line 2 does not close before the end"),
        ('b,"2\nc,3,3"\nd,"e"x,f\ng,h,i', "g", [1, 2], "fields where the others have 3"),
        ('b,"say "hi"\nto all, now",2\nc,3,3', "c", [1, 2], "text follows"),
        ('b,"say "hi"\nto all,\nwell\nthen, now",2\nc,3,3', "c", [1, 2, 3, 4], "text follows"),
        ('b,"a ""x"" b" y,2\nc,3,3', "c", [1], "text follows"),
        ('b,2,"3\nc","d","e\nf,g,h', "f", [1, 2], "text follows"),
        ('b","\n' * 4 + "f,g,h", "f", [1, 2, 3, 4], "text follows"),
    ],
)
def test_a_broken_quote_costs_its_own_lines_only(
    lines: str, good: str, bad: list[int], says: str, tmp_path: Path
) -> None:
    batch = read_file(tmp_path, "a.csv", f"u,i,x\n{lines}\n".encode(), ("u", "i", "x"))
    assert batch.table["u"].to_pylist() == list(good)
    assert [row.row for row in batch.malformed] == bad
    assert says in batch.malformed[0].detail


def test_backslashes_before_quotes_need_and_name_the_setting(tmp_path: Path) -> None:
    content = b'u,i,x\n1,"say \\"hi\\", now",C:\\temp\n2,"5\\"",\\N\n3,"a\\\\",b\n'
    with pytest.raises(DataError, match="set the source's escape"):
        read_file(tmp_path, "a.csv", content)
    batch = read_file(tmp_path, "a.csv", content, ("u", "i", "x"), escape="\\")
    assert rows_of(batch) == [("1", 'say "hi", now', "C:\\temp"), ("2", '5"', ""), ("3", "a\\", "b")]
    few = read_file(tmp_path, "b.csv", content[:7] + content[7:34] + b"9,8,7\n" * 40, ("u", "i", "x"))
    assert len(few.row) == 40
    assert "set the source's escape" in few.malformed[0].detail


@given(rows=st.lists(st.tuples(*[st.text(st.sampled_from(list('ab,"\\\n')), max_size=5)] * 2), max_size=8))
@settings(max_examples=150, deadline=None)
def test_escaped_files_are_read_as_they_were_written(rows: list[tuple[str, str]]) -> None:
    def written(cell: str) -> str:
        return '"' + cell.replace("\\", "\\\\").replace('"', '\\"') + '"'

    content = "u,i\n" + "".join(",".join(map(written, row)) + "\n" for row in rows)
    assert fields(content.encode(), ("u", "i"), escape="\\") == rows


def test_quotes_can_be_ordinary_characters() -> None:
    assert fields(b'u\ti\n1\t"5 inch\n"2"\ta"b\n', ("u", "i"), delimiter="\t", quote=None) == [
        ("1", '"5 inch'),
        ('"2"', 'a"b'),
    ]
    assert fields(b"u,i\n1,'a, b'\n", ("u", "i"), quote="'") == [("1", "a, b")]


def test_the_null_of_mysql_and_hive_is_no_text() -> None:
    assert fields(b'u,i\n\\N,"\\N"\nx\\N,\\Nx\n', ("u", "i")) == [(None, "\\N"), ("x\\N", "\\Nx")]
    assert fields(b"u\ti\n\\N\t2\n1\t\\N\na\\\tb\tN\n", ("u", "i"), delimiter="\t", escape="\\", quote=None) == [
        ("", "2"),
        ("1", ""),
        ("a\tb", "N"),
    ]
    assert fields(b"u::i\n\\N::2\n", ("u", "i"), delimiter="::") == [(None, "2")]


@pytest.mark.parametrize("spelled", ["\t", "\\t", "\x01", "\\x01", "\\001", "\\u0001"])
def test_a_delimiter_may_be_spelled_out(spelled: str) -> None:
    delimiter = b"\t" if "t" in spelled or spelled == "\t" else b"\x01"
    assert fields(b"u" + delimiter + b"i\n1" + delimiter + b"2\n", ("u", "i"), delimiter=spelled) == [("1", "2")]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, partial(pa.compress, codec="zstd", asbytes=True)])
def test_a_compressed_file_is_known_by_its_content(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    content = compress(b"u,i\n1,2\n")
    assert rows_of(read_file(tmp_path, "a.csv", content)) == [("1", "2")]
    assert rows_of(read_file(tmp_path, "a.jsonl", compress(b'{"u": 1, "i": 2}\n'))) == [("1", "2")]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"u,i\r1,2\r3,4\r", [("1", "2"), ("3", "4")]),
        (b"u,i,\n1,2,\n3,4,\n", [("1", "2"), ("3", "4")]),
        (b"u,i\n1,2,\n3,4,\n", [("1", "2"), ("3", "4")]),
        (b"u,i,\n1,2\n3,4\n", [("1", "2"), ("3", "4")]),
        (b' u , "i"\n1,2\n', [("1", "2")]),
        (b"\n\nu,i\n\n1,2\n\n", [("1", "2")]),
        (b"sep=,\r\nu,i\r\n1,2\r\n", [("1", "2")]),
        (b'"u","i"\n1,"2" \n', [("1", "2 ")]),
        (b"u,i\n1,a\0b\n", [("1", "a\0b")]),
        (b"\xef\xbb\xbfu,i\n1,2", [("1", "2")]),
        (b"u,i\n", []),
        (b"", []),
        (b"x,i,x,u\n0,2,0,1\n", [("1", "2")]),
    ],
)
def test_files_as_programs_write_them(content: bytes, rows: list[tuple[str, str]]) -> None:
    if b'"i"\n' in content and content.startswith(b" u"):
        with pytest.raises(DataError, match="did you mean '\"i\"'"):
            fields(content, ("u", "i"))
        return
    assert fields(content, ("u", "i")) == rows


def test_a_separator_line_of_another_delimiter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the first line says that the delimiter is ';'"):
        read_file(tmp_path, "a.csv", b"sep=;\nu;i\n1;2\n")


@pytest.mark.parametrize("source", [{"quote": "ab"}, {"escape": '"'}, {"delimiter": "::", "escape": "\\"}])
def test_impossible_dialects_are_refused(source: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ValueError)):
        read_file(tmp_path, "a.csv", b"u,i\n", **source)
