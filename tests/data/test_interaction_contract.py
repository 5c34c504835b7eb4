"""The contract of interactions: columns, reasons, and independence of batching."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import Data
from rayrec.data import parquet_reader
from rayrec.data.input_files import InputFile
from rayrec.data.interaction_contract import InteractionContract, ValidatedBatch
from rayrec.data.raw_rows import RawBatch
from rayrec.storage import Storage

FILE = InputFile(7, "events/a.csv", 1, "v", "csv")
DAY = date(2011, 8, 31)


def contract(items: list[str] | None = None, item_source: dict[str, Any] | None = None, **source: Any) -> Any:
    events = source.pop("events", {"interaction": 1.0, "purchase": 1.0, "return": -1.0})
    content = {
        "interactions": {"path": "x", **source},
        "items": item_source or {"path": "items.csv"},
        "events": events,
        "window_days": 30,
    }
    return InteractionContract(Data.model_validate(content), DAY, None if items is None else pa.array(items))


def check(contract: InteractionContract, **columns: Any) -> ValidatedBatch:
    rows = len(next(iter(columns.values())))
    defaults = {"user_id": ["u"] * rows, "item_id": ["i"] * rows, "ts": ["2011-08-30"] * rows}
    batch = RawBatch(pa.table(defaults | columns), np.arange(1, rows + 1))
    return contract.check(batch, FILE, "here")


def reasons(checked: ValidatedBatch) -> dict[int, str]:
    return dict(zip(checked.quarantine["row"].to_pylist(), checked.quarantine["reason"].to_pylist(), strict=True))


def test_columns_are_mapped_and_parts_extracted() -> None:
    rules = contract(
        user_id={"column": "CustomerID", "extract": r"^(\d+)(?:\.0)?$"}, item_id="StockCode", value="Quantity"
    )
    checked = check(rules, CustomerID=["17850.0", "12", "x1"], StockCode=["a", " b ", "c"], Quantity=["3", "", "1"])
    rows = checked.interactions.to_pylist()
    assert [(row["user_id"], row["item_id"]) for row in rows] == [("17850", "a"), ("12", "b")]
    assert rows[0]["value"] == 3
    assert np.isnan(rows[1]["value"])
    assert rows[0]["ts"] == datetime(2011, 8, 30, tzinfo=UTC)
    assert [row["source_file"] for row in rows] == [7, 7]
    assert reasons(checked) == {3: "no_user"}
    assert checked.quarantine["detail"].to_pylist() == ["CustomerID is 'x1'"]


def test_the_first_matching_rule_names_the_event() -> None:
    event = {
        "column": "kind",
        "rules": [
            {"column": "invoice", "starts_with": "C", "event": "return"},
            {"column": "invoice", "matches": r"^\w1$", "event": "purchase"},
        ],
    }
    checked = check(contract(event=event), kind=["purchase", "purchase", None, "odd"], invoice=["C1", "A", "B1", ""])
    assert checked.interactions["event"].to_pylist() == [2, 1, 1, None]
    assert reasons(checked) == {4: "unknown_event"}


def test_a_requirement_quarantines_with_its_own_reason() -> None:
    require = [{"column": "item_id", "matches": r"^\d{5}$", "reason": "not_a_product"}]
    checked = check(contract(require=require), item_id=["12345", "POST", "123456"])
    assert reasons(checked) == {2: "not_a_product", 3: "not_a_product"}


def test_a_row_has_one_reason_in_a_fixed_order() -> None:
    rules = contract(items=["i"], value="value", event={"column": "event"})
    checked = check(
        rules,
        user_id=["", "u", "u", "u", "u"],
        item_id=["", "gin", "gin", "gin", "i"],
        ts=["x", "x", "2011-08-30", "2011-08-30", "2011-08-30"],
        event=["x", "x", "x", "purchase", "purchase"],
        value=["x", "x", "x", "x", "x"],
    )
    assert reasons(checked) == {1: "no_user", 2: "bad_time", 3: "unknown_event", 4: "unknown_item", 5: "bad_value"}


def test_rows_outside_the_window_are_counted_and_not_checked() -> None:
    checked = check(
        contract(),
        user_id=["u", "", "u", "", "u"],
        ts=["2011-08-30T23:59:59.999999", "2011-08-31", "2011-08-01", "2011-07-31T23:59:59", "2099-01-01"],
    )
    assert (checked.accepted, checked.outside_window, checked.quarantine.num_rows) == (2, 3, 0)


def test_a_rejected_row_with_a_valid_user_counts_for_users() -> None:
    checked = check(contract(items=["i"]), user_id=["u", "v", "a\x00b", ""], item_id=["i", "gin", "i", "i"])
    rows = checked.interactions.to_pylist()
    assert [(row["user_id"], row["item_id"], row["rejected"]) for row in rows] == [("u", "i", False), ("v", None, True)]
    assert checked.quarantine["user_id"].to_pylist() == ["v", None, None]


@pytest.mark.parametrize("user", ["*", " *", "*\u200b"])
def test_a_user_who_would_speak_for_all_users_is_quarantined(user: str) -> None:
    checked = check(contract(), user_id=["u", user], item_id=["i", "*"])
    assert checked.interactions["user_id"].to_pylist() == ["u"]
    assert reasons(checked) == {2: "reserved_user"}
    assert checked.quarantine["user_id"].to_pylist() == [None]


def test_ids_of_files_of_every_type_are_the_catalogues(tmp_path: Path) -> None:
    number, code = Decimal(17), uuid.uuid5(uuid.NAMESPACE_DNS, "x")
    users = [pa.array([17]), pa.array([17.0]), pa.array([number], pa.decimal128(38, 10)), pa.array(["1.7e1"])]
    users += [pa.array(["17"], pa.string_view()), pa.array([b"17"], pa.large_binary())]
    users.append(pa.DictionaryArray.from_arrays(pa.array([0], pa.uint32()), pa.array(["17"])))
    raw = pa.array([code.bytes], pa.binary(16))
    items = [raw, pa.ExtensionArray.from_storage(pa.uuid(), raw), raw.cast(pa.binary()), pa.array([str(code)])]
    rules = contract(items=[str(code)])
    for user in users:
        for item in items:
            table = pa.table({"user_id": user, "item_id": item, "ts": pa.array(["2011-08-30"], pa.string_view())})
            pq.write_table(table, tmp_path / "x.parquet")
            batches = parquet_reader.read(Storage(str(tmp_path)), "x.parquet", rules.columns, rules.needed, None, 1)
            for batch in batches:
                (row,) = rules.check(batch, FILE, "here").interactions.to_pylist()
                assert (row["user_id"], row["item_id"], row["rejected"]) == ("17", str(code), False)
                other = contract(items=["cup"]).check(batch, FILE, "here")
                assert f'"item_id": "{code}"' in other.quarantine["raw"][0].as_py()


@pytest.mark.parametrize("size", [1, 3, 7])
def test_validation_does_not_depend_on_batching(size: int) -> None:
    rules = contract(items=["a", "b"], value="value", dwell_ms="dwell", event={"column": "event"})
    draw = np.random.default_rng(0)

    def some(*values: str) -> list[str]:
        return [str(value) for value in draw.choice(values, 50)]

    table = pa.table(
        {
            "user_id": some("u", "v", "", "w\x00"),
            "item_id": some("a", "b", "c", ""),
            "ts": some("2011-08-30", "2011-08-30T00:00:00Z", "2011-08-30T01:00:00+01:00", "x", "2012-01-01"),
            "event": some("purchase", "return", "x", ""),
            "value": some("1", "NaN", "", "x"),
            "dwell": some("1", "-1", "", "x", "2.5"),
        }
    )
    row = np.arange(1, 51)
    whole = rules.check(RawBatch(table, row), FILE, "here")
    parts = [
        rules.check(RawBatch(table.slice(at, size), row[at : at + size]), FILE, "here") for at in range(0, 50, size)
    ]
    for name in ("interactions", "quarantine"):
        joined = [row for part in parts for row in getattr(part, name).to_pylist()]
        assert str(joined) == str(getattr(whole, name).to_pylist())  # NaN equals NaN
    assert sum(part.outside_window for part in parts) == whole.outside_window > 0


def test_the_raw_row_is_stored_as_truncated_json() -> None:
    checked = check(contract(), user_id=["", ""], note=["short", "long " * 400_000])
    raws = checked.quarantine["raw"].to_pylist()
    assert raws[0] == '{"user_id": "", "item_id": "i", "ts": "2011-08-30", "note": "short"}'
    assert len(raws[1]) <= 4096
    assert '"ts": "2011-08-30"' in raws[1]


def test_typed_columns_need_no_text() -> None:
    rules = contract(value="value", dwell_ms="dwell")
    checked = check(
        rules,
        user_id=pa.array([1, 2]),
        item_id=pa.array(["i", "j"]).dictionary_encode(),
        ts=pa.array([datetime(2011, 8, 30)] * 2, pa.timestamp("ns")),
        value=pa.array([1.5, None]),
        dwell=pa.array([3, 1 << 40]),
    )
    assert checked.interactions["user_id"].to_pylist() == ["1", "2"]
    assert checked.interactions["dwell_ms"].to_pylist()[0] == 3
    assert reasons(checked) == {2: "bad_dwell"}


SHOWN = {"interaction": 1.0, "purchase": 2.0, "interaction (shown)": 0.25}


@pytest.mark.parametrize(
    "organic",
    [
        ["true", "False", "1", "0", "", "0"],
        pa.array([True, False, True, False, None, False]),
        pa.array([1, 0, 1, 0, None, 0], pa.int8()),
    ],
)
def test_what_was_shown_has_an_event_type_of_its_own(organic: Any) -> None:
    """So training, evaluation and segments weight or leave out what the user did not find himself."""
    rules = contract(events=SHOWN, organic="organic", event={"column": "event", "default": "interaction"})
    kinds = ["interaction"] * 5 + ["purchase"]
    checked = check(rules, organic=organic, event=kinds)
    names = list(SHOWN)
    found = [names[code] for code in checked.interactions["event"].to_pylist()]
    shown = "interaction (shown)"
    assert found == ["interaction", shown, "interaction", shown, "interaction", "purchase"]  # no purchase (shown)


def test_other_values_of_organic_are_quarantined_and_a_column_without_effect_is_refused() -> None:
    rules = contract(events=SHOWN, organic="organic")
    assert reasons(check(rules, organic=["true", "maybe", "2"])) == {2: "bad_organic", 3: "bad_organic"}
    with pytest.raises(ValueError, match="organic has no effect"):
        contract(organic="organic")
