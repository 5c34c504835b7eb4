"""The feedback contract: one reason per row, complete slates only, independence of file boundaries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from rayrec.config.data_section import Feedback
from rayrec.data.feedback_contract import FeedbackContract, FeedbackResult, read_feedback
from rayrec.data.raw_rows import RawBatch
from rayrec.data.row_validation import RowValidation
from rayrec.data.schemas import FEEDBACK, QUARANTINE
from rayrec.errors import ConfigError, DataError, QuarantineError

HEADER = "slate_id,rank,item_id,reward,propensity\n"
GOOD = "s,1,a,1,0.5\ns,2,b,0,0.25\n"


def read(folder: Path, content: str, **source: Any) -> FeedbackResult:
    (folder / "shown.csv").write_text(content, encoding="utf8")
    feedback = Feedback.model_validate({"path": "shown.csv", "max_quarantine_share": 1, **source})
    return read_feedback(feedback, str(folder))


def reasons(read: FeedbackResult) -> dict[int, str]:
    return dict(zip(read.quarantine["row"].to_pylist(), read.quarantine["reason"].to_pylist(), strict=True))


def test_good_rows_become_feedback_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + "t,1,c,-2.5,1\ns,2,b,0,0.25\ns,1.0,a,1e2,5e-1\n")
    assert found.feedback.schema == FEEDBACK
    shown = {"impression_id": ""}
    assert found.feedback.to_pylist() == [
        {"slate_id": "t", **shown, "rank": 1, "item_id": "c", "reward": -2.5, "propensity": 1.0},
        {"slate_id": "s", **shown, "rank": 2, "item_id": "b", "reward": 0.0, "propensity": 0.25},
        {"slate_id": "s", **shown, "rank": 1, "item_id": "a", "reward": 100.0, "propensity": 0.5},
    ]
    assert (found.rows, found.quarantine.num_rows, found.by_reason) == (3, 0, {})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",1,x,1,.5", "no_slate"),
        ("u,1,,1,.5", "no_item"),
        ("u\x01,1,x,1,.5", "control_characters"),
        (f"u,1,{'x' * 257},1,.5", "too_long_id"),
        ("u,0,x,1,.5", "bad_rank"),
        ("u,1.5,x,1,.5", "bad_rank"),
        ("u,1001,x,1,.5", "bad_rank"),
        ("u,first,x,1,.5", "bad_rank"),
        ("u,1,x,,.5", "bad_reward"),
        ("u,1,x,nan,.5", "bad_reward"),
        ("u,1,x,1e39,.5", "bad_reward"),
        ("u,1,x,1,0", "bad_propensity"),
        ("u,1,x,1,1.01", "bad_propensity"),
        ("u,1,x,1,-0.5", "bad_propensity"),
        ("u,1,x,1,inf", "bad_propensity"),
        ("u,1,x,1,1e-60", "bad_propensity"),
        ("s,2,x,1,.5", "duplicate_rank"),
        ("s,3,b,1,.5", "duplicate_item"),
        ("u,1,x", "malformed_row"),
    ],
)
def test_each_invalid_row_is_quarantined_alone_with_its_reason(row: str, reason: str, tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + GOOD + row + "\n")
    assert reasons(found) == {3: reason}
    assert found.quarantine.schema == QUARANTINE
    assert found.by_reason == {reason: 1}
    assert found.feedback["item_id"].to_pylist() == ["a", "b"]
    assert found.rows == 3


def test_the_detail_names_the_column_and_the_raw_row_is_kept(tmp_path: Path) -> None:
    found = read(tmp_path, "slate,pos,item_id,reward,propensity\ns,1,a,1,2\n" + GOOD, slate_id="slate", rank="pos")
    row = found.quarantine.to_pylist()[0]
    assert (row["file"], row["row"], row["user_id"], row["detail"]) == ("shown.csv", 1, None, "propensity is '2'")
    assert json.loads(row["raw"])["pos"] == "1"


def test_an_impression_and_its_clicks_may_be_rows_of_their_own_and_repeated_rows_count_once(tmp_path: Path) -> None:
    clicks = "s,1,a,0,0.5\ns,2,b,0,0.25\n" * 2 + "s,1,a,1,0.5\ns,1,a,1,0.5\ns,1,a,3,0.5\n"
    found = read(tmp_path, HEADER + clicks)
    assert found.feedback.select(["item_id", "reward"]).to_pylist() == [
        {"item_id": "a", "reward": 4.0},
        {"item_id": "b", "reward": 0.0},
    ]
    assert (found.rows, found.quarantine.num_rows, found.unused) == (7, 0, {"repeated": 3})


def test_event_types_have_rewards_and_those_after_the_attribution_window_are_late(tmp_path: Path) -> None:
    log = "slate_id,view,item_id,event,at\n"
    log += "s,v1,a,shown,2026-11-01T10:00:00Z\ns,v1,b,shown,2026-11-01T10:00:00Z\n"
    log += "s,v2,a,shown,2026-11-02T10:00:00Z\ns,v1,a,click,2026-11-01T10:05:00Z\n"
    log += "s,v2,a,buy,2026-11-03T09:59:00Z\ns,v1,b,buy,2026-11-03T10:00:00Z\ns,v1,b,scroll,2026-11-01T10:00:00Z\n"
    source = {"impression_id": "view", "rank": None, "propensity": None, "event": "event", "time": "at"}
    found = read(tmp_path, log, **source, rewards={"shown": 0, "click": 1, "buy": 5}, attribution_hours=24)
    rows = found.feedback.select(["impression_id", "item_id", "rank", "reward", "propensity"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("v1", "a", 0, 1.0, None),
        ("v1", "b", 0, 0.0, None),
        ("v2", "a", 0, 5.0, None),
    ]
    assert (found.unused, reasons(found)) == ({"late": 1}, {7: "unknown_event"})


def test_ranks_and_propensities_may_be_missing(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + "s,,a,1,\ns,2,b,0,.25\n")
    assert found.quarantine.num_rows == 0
    assert found.feedback.select(["rank", "propensity"]).to_pylist() == [
        {"rank": 0, "propensity": None},
        {"rank": 2, "propensity": 0.25},
    ]


def test_a_duplicate_of_an_invalid_row_is_valid(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + "s,1,a,?,.5\n" + GOOD)
    assert reasons(found) == {1: "bad_reward"}
    assert found.feedback.num_rows == 2


def test_the_first_file_by_path_wins_and_parts_of_columns_are_extracted(tmp_path: Path) -> None:
    for name, reward in (("b.csv", 2), ("a.csv", 1)):
        (tmp_path / name).write_text(f"{HEADER}slate-7,1,{'xy'[reward - 1]},{reward},.5\n")
    source = {
        "path": "*.csv",
        "slate_id": {"column": "slate_id", "extract": r"^slate-(\d+)$"},
        "max_quarantine_share": 0.5,
    }
    found = read_feedback(Feedback.model_validate(source), str(tmp_path))
    assert found.feedback.select(["slate_id", "reward"]).to_pylist() == [{"slate_id": "7", "reward": 1}]
    assert found.quarantine.select(["file", "reason"]).to_pylist() == [{"file": "b.csv", "reason": "duplicate_rank"}]


def test_typed_parquet_and_json_lines_give_the_same_feedback(tmp_path: Path) -> None:
    rows = [
        {"slate_id": 7, "rank": rank, "item_id": item, "reward": 0.5, "propensity": 0.25}
        for rank, item in ((1, "a"), (2, "b"), (2, "c"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "shown.parquet")
    (tmp_path / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [
        read_feedback(Feedback(path=f"shown.{kind}", max_quarantine_share=0.5), str(tmp_path))
        for kind in ("parquet", "jsonl")
    ]
    assert found[0].feedback.equals(found[1].feedback)
    assert found[0].feedback["slate_id"].to_pylist() == ["7", "7"]
    assert reasons(found[0]) == reasons(found[1]) == {3: "duplicate_rank"}


@pytest.mark.parametrize("size", [1, 7, 60])
def test_results_do_not_depend_on_batches(size: int) -> None:
    draw = np.random.default_rng(0)

    def some(*values: str) -> list[str]:
        return [str(value) for value in draw.choice(values, 60)]

    table = pa.table(
        {
            "slate_id": some("s", "t", "u", "v", "w", ""),
            "rank": some("1", "2", "3", "x"),
            "item_id": some("a", "b", "c", "d", "e"),
            "reward": some("0", "1", "1", "nan"),
            "propensity": some("0.5", "1", "1", "2"),
        }
    )
    row = np.arange(1, 61)
    contract = FeedbackContract(Feedback(path="x"))

    def check(step: int) -> tuple[pa.Table, list[Any]]:
        cutoffs = range(0, 60, step)
        batches = [RowValidation(RawBatch(table.slice(at, step), row[at : at + step]), "f", "here") for at in cutoffs]
        good, bad, _ = contract.check(batches)
        return good, sorted((each["row"], each["reason"], each["detail"]) for each in bad.to_pylist())

    whole, parts = check(60), check(size)
    assert whole[0].equals(parts[0])
    assert whole[1] == parts[1]
    assert {reason for _, reason, _ in whole[1]} >= {"duplicate_rank", "duplicate_item"}


def test_too_much_quarantine_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(QuarantineError, match=r"1 of 3 rows of feedback .*33.3%, allowed 5.0%\): bad_rank 1") as caught:
        read(tmp_path, HEADER + GOOD + "s,x,c,1,.5\n", max_quarantine_share=0.05)
    assert "shown.csv, row 3: rank is 'x'" in str(caught.value)
    assert "feedback.max_quarantine_share" in caught.value.hint
    with pytest.raises(QuarantineError, match="1 of 1 rows"):  # no row would remain
        read(tmp_path, HEADER + "s,x,c,1,.5\n")


def test_files_without_rows_or_columns_and_folders_without_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no feedback"):
        read(tmp_path, HEADER)
    with pytest.raises(DataError, match="there is no column 'propensity'"):
        read(tmp_path, "slate_id,rank,item_id,reward,propensitie\ns,1,a,1,1\n")
    with pytest.raises(DataError, match=r"no file matches feedback\.path 'clicks'"):
        read_feedback(Feedback(path="clicks"), str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"there are no files under feedback\.root"):
        read_feedback(Feedback(path="x", root=str(tmp_path / "empty")), str(tmp_path))
    with pytest.raises(ConfigError, match=r"data\.root is not set"):
        read_feedback(Feedback(path="x"), "")


def test_feedback_may_have_its_own_root(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    found = read(tmp_path / "own", HEADER + GOOD, root=str(tmp_path / "own"))
    assert found.feedback.num_rows == 2


def test_unknown_keys_and_invalid_shares_are_an_error() -> None:
    half = ({"event": "e"}, {"rewards": {"click": 1}}, {"attribution_hours": 1})
    for wrong in ({"slate": "x"}, {"max_quarantine_share": 2}, *half):
        with pytest.raises(ValidationError):
            Feedback.model_validate({"path": "x", **wrong})


def test_rows_at_or_after_the_given_moment_do_not_count(tmp_path: Path) -> None:
    text = "slate_id,rank,item_id,reward,time\n" + "".join(
        f"s,1,a,{reward},2026-01-01T{hour}:00:00Z\n" for hour, reward in (("10", 1), ("12", 2), ("13", 4))
    )
    (tmp_path / "shown.csv").write_text(text, encoding="utf8")
    feedback = Feedback.model_validate({"path": "shown.csv", "propensity": None, "time": "time"})
    noon = 1767268800 * 1_000_000
    found = read_feedback(feedback, str(tmp_path), before=noon)
    assert found.feedback["reward"].to_pylist() == [1.0]
    assert found.unused == {"after the date": 2}
    assert read_feedback(feedback, str(tmp_path)).feedback["reward"].to_pylist() == [7.0]
