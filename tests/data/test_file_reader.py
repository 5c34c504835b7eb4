"""All file formats give the same rows and row numbers."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import read_file as read

from rayrec.data import raw_rows as contract_rows
from rayrec.data.id_text import id_text
from rayrec.data.raw_rows import Malformed
from rayrec.errors import DataError

ROWS = [("ann", "a cup, big"), ("bob", 'the "best" tea'), ("cät", "two\nlines"), ("dan", "")]


def quoted(rows: list[tuple[str, str]]) -> str:
    return "u,i\n" + "".join('{},"{}"\n'.format(u, i.replace('"', '""')) for u, i in rows)


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.csv", bytes), ("a.csv.gz", gzip.compress), ("a.csv.bz2", bz2.compress)],
    ids=["plain", "gzip", "bzip2"],
)
@pytest.mark.parametrize("encoding", ["utf8", "latin-1", "utf-16", "utf-8-sig"])
def test_csv_in_any_encoding_and_compression_gives_the_same_rows(
    name: str, pack: type[bytes], encoding: str, tmp_path: Path
) -> None:
    batch = read(tmp_path, name, pack(quoted(ROWS).encode(encoding)), encoding=encoding)
    assert list(zip(*(column.to_pylist() for column in batch.table.columns), strict=True)) == ROWS
    assert batch.row.tolist() == [1, 2, 3, 4]


def test_json_lines_and_parquet_give_the_same_rows_as_csv(tmp_path: Path) -> None:
    import json

    lines = "\n".join(json.dumps({"u": u, "i": i, "more": [1, {}]}) for u, i in ROWS).encode()
    table = pa.table({"u": [u for u, _ in ROWS], "i": [i for _, i in ROWS]})
    pq.write_table(table, tmp_path / "x")
    csv = read(tmp_path, "a.csv", quoted(ROWS).encode()).table.to_pylist()
    assert read(tmp_path, "a.jsonl", lines).table.to_pylist() == csv
    assert read(tmp_path, "a.parquet", (tmp_path / "x").read_bytes()).table.to_pylist() == csv


def test_numbers_in_json_are_equal_ids_if_they_are_equal(tmp_path: Path) -> None:
    numbers = ["100000", "1e5", "1E+5", "100000.0", "10.0e4", "0.1e6", "NaN", "1e999999999", f"1e-{'9' * 40}"]
    lines = "".join(f'{{"u": {number}, "i": "1e5"}}\n' for number in numbers).encode()
    batch = read(tmp_path, "x.jsonl", lines)
    assert id_text(batch.table["u"], "u", "x").to_arrow().to_pylist() == [*["100000"] * 6, None, *numbers[-2:]]
    assert id_text(batch.table["i"], "i", "x").to_arrow().to_pylist() == ["1e5"] * len(numbers)  # text is a code


def test_numbers_in_json_keep_their_digits(tmp_path: Path) -> None:
    batch = read(tmp_path, "a.jsonl", b'{"u": 12345678901234567890123, "i": 1.10}\n{"u": true, "i": null}')
    assert batch.table.to_pylist() == [{"u": "12345678901234567890123", "i": "1.10"}, {"u": "true", "i": None}]


def test_malformed_rows_have_the_number_that_they_have_in_the_file(tmp_path: Path) -> None:
    rows = [f"{n},{n}" if n % 7 else f"{n}" for n in range(1, 1001)]
    batch = read(tmp_path, "a.csv", ("u,i\n" + "\n".join(rows)).encode())
    assert batch.table["u"].to_pylist() == [str(row) for row in batch.row]
    assert [row.row for row in batch.malformed] == list(range(7, 1001, 7))
    assert all(row.raw == str(row.row) for row in batch.malformed)


def test_row_numbers_continue_over_the_blocks_of_a_long_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.data.csv_reader._BATCH_BYTES", 256)
    monkeypatch.setattr("rayrec.data.text_stream._BLOCK", 100)
    test_malformed_rows_have_the_number_that_they_have_in_the_file(tmp_path)
    rows = "".join(f'{n},"{n}\n{n}"\n' if n % 3 else "x\n" for n in range(1, 500))
    batch = read(tmp_path, "b.csv", ("u,i\n" + rows).encode())
    assert batch.table["u"].to_pylist() == [str(row) for row in batch.row]
    assert len(batch.row) + len(batch.malformed) == 499


def test_rows_after_an_unclosed_quote_are_read(tmp_path: Path) -> None:
    content = "u,i,x\na,1,1\n" + 'b,"2,2\n' + "c,3,3\n" * 5
    batch = read(tmp_path, "a.csv", content.encode())
    assert batch.table["u"].to_pylist() == ["a", *"ccccc"]
    assert [row.row for row in batch.malformed] == [2]
    assert "line 3 does not close" in batch.malformed[0].detail


def test_a_delimiter_of_several_characters_splits_lines(tmp_path: Path) -> None:
    content = "1::a:b::x\r\n\n2::é::y\n3::only\n4::d::e::f".encode()
    batch = read(tmp_path, "a.csv", content, delimiter="::", header=False, names=["u", "i", "x"])
    assert batch.table.to_pylist() == [{"u": "1", "i": "a:b"}, {"u": "2", "i": "é"}]
    assert batch.malformed == (
        Malformed(3, "2 fields where the others have 3", "3::only"),
        Malformed(4, "4 fields where the others have 3", "4::d::e::f"),
    )


def test_folders_named_key_value_are_columns(tmp_path: Path) -> None:
    path = "dt=2011-08-30/c=G%20B/e=__HIVE_DEFAULT_PARTITION__/a.csv"
    batch = read(tmp_path, path, b"u\nann\n", columns=("u", "dt", "c", "e"))
    assert batch.table.to_pylist() == [{"u": "ann", "dt": "2011-08-30", "c": "G B", "e": None}]


def test_an_endless_line_is_an_error_and_does_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.data.text_stream.MAX_ROW_BYTES", 1 << 10)
    with pytest.raises(DataError, match="a line is longer"):
        read(tmp_path, "a.jsonl", b"x" * (5 << 20))
    assert contract_rows.MAX_ROW_BYTES == 16 << 20


def test_a_column_that_an_older_file_lacks_is_null_and_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"u": ["a"]}), tmp_path / "x")
    for name, content in (("a.csv", b"u\na\n"), ("b.parquet", (tmp_path / "x").read_bytes())):
        batch = read(tmp_path, name, content, needed=("u",))
        assert batch.table.to_pylist() == [{"u": "a", "i": None}]
        assert "there is no column 'i'" in str(batch.missing["i"])
        with pytest.raises(DataError, match="there is no column 'u'"):
            read(tmp_path, name, content.replace(b"u", b"v"), needed=("u",))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("U;i", "did you mean 'U'"),
        ("USER_ID,i", "did you mean 'USER_ID'"),
        ("userId,i", "did you mean 'userId'"),
        ("user id,i", "did you mean 'user id'"),
        ("i;user_id", 'set the source\'s delimiter: ";"'),
        ("i\tuser_id", 'set the source\'s delimiter: "\\t"'),
    ],
)
def test_a_column_of_another_spelling_is_suggested(header: str, says: str, tmp_path: Path) -> None:
    delimiter = ";" if header.startswith("U;") else ","
    wanted = "u" if header.startswith("U;") else "user_id"
    with pytest.raises(DataError) as error:
        read(tmp_path, "a.csv", f"{header}\n1,2\n".encode(), columns=(wanted,), delimiter=delimiter)
    assert says in str(error.value)


def test_concatenated_compressed_files_are_read_whole(tmp_path: Path) -> None:
    parts = b"u,i\na,1\n", b"b,2\n"
    for name, pack in (("a.csv.gz", gzip.compress), ("a.csv.bz2", bz2.compress)):
        assert read(tmp_path, name, b"".join(map(pack, parts))).table["u"].to_pylist() == ["a", "b"]
