"""Files of users are read as interactions are: the same ids, the same nulls, and no row is skipped silently."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from rayrec.data.user_file import read_user_ids
from rayrec.errors import DataError

NULL_SPELLINGS = ["NA", "null", "NULL", "NaN", "nan", "None", "N/A", "#N/A", "n/a", "-nan", "<NA>", "1.#IND"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_ids_are_parsed_as_in_the_contract(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"n": [1, 2, 3, 4], "user_id": [" 007", "7", "7.0 ", ""]})
    path = str(tmp_path / f"users.{suffix}")
    pa_csv.write_csv(table, path) if suffix == "csv" else pq.write_table(table, path)
    assert read_user_ids(path).to_pylist() == ["007", "7"]
    assert read_user_ids(path, "n").to_pylist() == ["1", "2", "3", "4"]


@pytest.mark.parametrize("name", ["users.csv", "users", "users.csv.gz", "users.parquet", "users.jsonl"])
def test_words_for_null_are_users_in_every_format(name: str, tmp_path: Path) -> None:
    path, csv = tmp_path / name, "user_id,x\n" + "".join(f"{user},1\n" for user in NULL_SPELLINGS) + ",1\n"
    if name.endswith("parquet"):
        pq.write_table(pa.table({"user_id": [*NULL_SPELLINGS, None]}), path)
    elif name.endswith("jsonl"):
        path.write_text("".join(json.dumps({"user_id": user}) + "\n" for user in [*NULL_SPELLINGS, None]))
    else:
        path.write_bytes(gzip.compress(csv.encode()) if name.endswith("gz") else csv.encode())
    assert read_user_ids(str(path)).to_pylist() == NULL_SPELLINGS


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("ann\n*\n", "reserved_user, user_id is '*'"),
        ("ann\nb,ob\n", "row 2 cannot be read as a user: malformed_row"),
        ("ann\nb\x07ob\n", "control_characters"),
        ("ann\n1.23457E+11\n", "inexact_id"),
        (f"ann\n{'x' * 300}\n", "too_long_id"),
    ],
)
def test_a_row_that_names_nobody_refuses_the_file(rows: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id\n" + rows)
    with pytest.raises(DataError, match=r"row 2 cannot be read as a user") as refused:
        read_user_ids(str(tmp_path / "users.csv"))
    assert reason in str(refused.value)
