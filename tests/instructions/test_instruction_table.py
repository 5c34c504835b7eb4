"""The contract of the instruction table: one reason a row, cleaned texts, independent of batches and file formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from rayrec.config import Data, InstructionSource
from rayrec.data.input_files import instruction_files
from rayrec.data.raw_rows import RawBatch
from rayrec.data.row_validation import RowValidation
from rayrec.data.schemas import INSTRUCTION, QUARANTINE
from rayrec.errors import DataError, QuarantineError
from rayrec.instructions.instruction_table import REASONS, InstructionContract, InstructionReadResult, read_instructions

HEADER = "user_id,arm,preference,intention\n"
GOOD = "ann,,likes tea,\n*,llm,,Christmas gifts under £5\n"
ARMS = ("control", "llm")


def data(root: Path, **source: Any) -> Data:
    instructions = {"path": "instructions.csv", "max_quarantine_share": 0.8, **source}
    others = {"interactions": {"path": "x"}, "items": {"path": "y"}}
    return Data.model_validate({"root": str(root), **others, "instructions": instructions})


def read(folder: Path, content: str | None, max_chars: int = 300, **source: Any) -> InstructionReadResult:
    """`content`: of instructions.csv; None: the files exist already."""
    if content is not None:
        (folder / "instructions.csv").write_text(content, encoding="utf8")
    settings = data(folder, **source)
    return read_instructions(settings, instruction_files(settings), ARMS, max_chars)


def reasons(read: InstructionReadResult) -> dict[int, str]:
    return dict(zip(read.quarantine["row"].to_pylist(), read.quarantine["reason"].to_pylist(), strict=True))


def test_valid_rows_become_instructions_sorted_by_user_and_arm(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + "bob,,,a kettle\n" + GOOD + "ann,llm, likes \u200b cups ,for\tguests\n")
    assert found.instructions.schema == INSTRUCTION
    assert [tuple(row.values()) for row in found.instructions.to_pylist()] == [
        ("*", "llm", None, "Christmas gifts under £5"),
        ("ann", "llm", "likes cups", "for guests"),
        ("ann", None, "likes tea", None),
        ("bob", None, None, "a kettle"),
    ]
    assert (found.rows, found.quarantine.num_rows) == ({"instructions.csv": 4}, 0)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",,x,y", "no_user"),
        ("u\x01,,x,y", "control_characters"),
        ("u\ufffd,,x,y", "bad_encoding"),
        ("u,,x\ufffd,y", "bad_encoding"),
        (f"{'u' * 257},,x,y", "too_long_id"),
        ("u,lllm,x,y", "unknown_arm"),
        ("*,*,x,y", "unknown_arm"),
        ("u,,,", "no_text"),
        ("u,llm, ,\t", "no_text"),
        ("u,,\u200b\u202e\x02,", "illegible_text"),
        ("u,,fine,\U000e0041\U000e0042", "illegible_text"),
        ("ann,,again,", "duplicate_instruction"),
        ("*,llm,again,", "duplicate_instruction"),
        ("u,,x", "malformed_row"),
    ],
)
def test_invalid_row_is_quarantined_with_its_reason_alone(row: str, reason: str, tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + GOOD + row + "\n")
    assert reasons(found) == {3: reason}
    assert reason in REASONS
    assert found.quarantine.schema == QUARANTINE
    assert found.instructions["user_id"].to_pylist() == ["*", "ann"]
    assert found.rows == {"instructions.csv": 3}


def test_quarantine_has_the_column_and_the_raw_row(tmp_path: Path) -> None:
    row = read(tmp_path, "who,arm,preference,ask\nann,nobody,,cups\n" + GOOD, user_id="who", intention="ask")
    found = row.quarantine.to_pylist()[0]
    assert (found["file"], found["row"], found["user_id"]) == ("instructions.csv", 1, "ann")
    assert found["detail"] == "arm is 'nobody'"
    assert json.loads(found["raw"])["ask"] == "cups"


def test_duplicate_of_an_invalid_row_is_valid(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + "ann,,,\n" + GOOD)
    assert reasons(found) == {1: "no_text"}
    assert found.instructions["preference"].to_pylist() == [None, "likes tea"]


def test_the_first_file_by_path_wins(tmp_path: Path) -> None:
    for name, said in (("b.csv", "later"), ("a.csv", "earlier")):
        (tmp_path / name).write_text(f"{HEADER}ann,,{said},\n")
    found = read(tmp_path, None, path="*.csv")
    assert found.instructions["preference"].to_pylist() == ["earlier"]
    assert found.quarantine.select(["file", "reason"]).to_pylist() == [
        {"file": "b.csv", "reason": "duplicate_instruction"}
    ]
    assert found.rows == {"a.csv": 1, "b.csv": 1}


def test_long_texts_are_truncated_and_empty_texts_are_null(tmp_path: Path) -> None:
    found = read(tmp_path, f"{HEADER}ann,,{'so ' * 200},\n", max_chars=10).instructions
    assert found.select(["preference", "intention"]).to_pylist() == [{"preference": "so so so s", "intention": None}]


def test_parquet_json_lines_and_csv_give_the_same_table(tmp_path: Path) -> None:
    rows = [
        {"user_id": "7", "arm": None, "preference": "likes tea", "intention": None},
        {"user_id": "*", "arm": None, "preference": None, "intention": "a gift"},
        {"user_id": "*", "arm": "mars", "preference": None, "intention": "a gift"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "instructions.parquet")
    lines = [{key: value for key, value in row.items() if value is not None} for row in rows]
    (tmp_path / "instructions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "instructions.csv").write_text(HEADER + "7,,likes tea,\n*,,,a gift\n*,mars,,a gift\n")
    found = [read(tmp_path, None, path=f"instructions.{kind}") for kind in ("parquet", "jsonl", "csv")]
    assert found[0].instructions.equals(found[1].instructions)
    assert found[0].instructions.equals(found[2].instructions)
    assert [reasons(each) for each in found] == [{3: "unknown_arm"}] * 3


def test_missing_columns_can_be_set_to_null(tmp_path: Path) -> None:
    campaign = "user_id,ask\n*,Christmas gifts\n"
    found = read(tmp_path, campaign, arm=None, preference=None, intention="ask").instructions
    assert found.to_pylist() == [{"user_id": "*", "arm": None, "preference": None, "intention": "Christmas gifts"}]
    with pytest.raises(DataError, match="there is no column 'arm'"):
        read(tmp_path, campaign, preference=None, intention="ask")
    with pytest.raises(ValidationError, match="a column of preferences, of intentions, or both"):
        InstructionSource(path="x", preference=None, intention=None)


def test_arm_column_of_nulls_means_every_arm(tmp_path: Path) -> None:
    table = pa.table({"user_id": ["a", "b"], "arm": pa.nulls(2), "preference": ["x", "y"], "intention": pa.nulls(2)})
    pq.write_table(table, tmp_path / "instructions.parquet")
    found = read(tmp_path, None, path="instructions.parquet").instructions
    assert found["arm"].to_pylist() == found["intention"].to_pylist() == [None, None]


@pytest.mark.parametrize("size", [1, 7])
def test_result_does_not_depend_on_batches(size: int) -> None:
    draw = np.random.default_rng(0)

    def some(*values: str) -> list[str]:
        return [str(value) for value in draw.choice(values, 60)]

    table = pa.table(
        {
            "user_id": some("*", "ann", "bob", "eve", ""),
            "arm": some("", "llm", "control", "mars"),
            "preference": some("", "tea", "\ue000"),
            "intention": some("", "cups"),
        }
    )
    contract = InstructionContract(InstructionSource(path="x"), ARMS, 300)

    def check(step: int) -> tuple[pa.Table, list[Any]]:
        seen: set[tuple[str, str | None]] = set()
        good, bad = [], []
        for at in range(0, 60, step):
            batch = RawBatch(table.slice(at, step), np.arange(at + 1, at + 1 + table.slice(at, step).num_rows))
            parts = contract.check(RowValidation(batch, "f", "here"), seen)
            good.append(parts[0])
            bad += parts[1].to_pylist()
        return pa.concat_tables(good), sorted((row["row"], row["reason"], row["detail"]) for row in bad)

    whole, parts = check(60), check(size)
    assert whole[0].equals(parts[0])
    assert whole[1] == parts[1]
    expected = {"no_user", "unknown_arm", "no_text", "illegible_text", "duplicate_instruction"}
    assert {reason for _, reason, _ in whole[1]} == expected


def test_too_much_quarantine_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(QuarantineError, match=r"1 of 3 instructions .*33.3%, allowed 5.0%\): unknown_arm 1") as caught:
        read(tmp_path, HEADER + GOOD + "u,mars,x,\n", max_quarantine_share=0.05)
    assert "instructions.csv, row 3: arm is 'mars'" in str(caught.value)
    assert "data.instructions.max_quarantine_share" in caught.value.hint
    with pytest.raises(QuarantineError, match="1 of 1"):  # no row would be left
        read(tmp_path, HEADER + "u,mars,x,\n", max_quarantine_share=1)


def test_empty_table_is_valid_and_missing_files_are_errors(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER)
    assert (found.instructions.num_rows, found.rows) == (0, {"instructions.csv": 0})
    with pytest.raises(DataError, match=r"no file matches data\.instructions\.path 'wishes\.csv'"):
        instruction_files(data(tmp_path, path="wishes.csv"))
    without = data(tmp_path).model_copy(update={"instructions": None})
    assert instruction_files(without) == ()
    assert read_instructions(without, (), ARMS, 300).instructions.equals(INSTRUCTION.empty_table())
