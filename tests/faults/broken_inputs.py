"""Broken inputs, each the small dataset with one fault, and the expected outcome: error text or quarantine reasons."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa
from small_shop import DAY, EVENTS, HEADER, ITEMS, ROWS, good_config, good_files, parquet

from rayrec.errors import DataError, QuarantineError, RayrecError

DAY_FILE = "events/2011-08-30.csv"


@dataclass(frozen=True)
class Broken:
    """A broken input. `says`: parts of the error text (a DataError unless `error` is another class). `reasons`: all
    quarantined rows and users, by reason."""

    name: str
    config: Mapping[str, Any] = field(default_factory=good_config)
    files: Mapping[str, bytes | str] = field(default_factory=good_files)
    day: date = DAY
    error: type[RayrecError] | None = None
    says: tuple[str, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    histories: int | None = None  # users left

    def __post_init__(self) -> None:
        if self.says and self.error is None:
            object.__setattr__(self, "error", DataError)


def _config(**sections: Mapping[str, Any]) -> dict[str, Any]:
    config = good_config()
    for section, keys in sections.items():
        config["data"][section] |= keys
    return config


def _events(name: str, content: bytes | str, **expected: Any) -> Broken:
    return Broken(name, files=good_files() | {DAY_FILE: content}, **expected)


def _row(name: str, row: bytes | str, **reasons: int) -> Broken:
    """One broken row after the valid ones; no user is lost by it."""
    data = EVENTS.encode() + (row.encode() if isinstance(row, str) else row) + b"\n"
    return _events(name, data, reasons=reasons)


def _items(name: str, content: bytes | str, **expected: Any) -> Broken:
    return Broken(name, files=good_files() | {"items.csv": content}, **expected)


def _parquet(name: str, content: bytes | pa.Table, **expected: Any) -> Broken:
    data = content if isinstance(content, bytes) else parquet(content)
    return Broken(name, files={"events/2011-08-30.parquet": data, "items.csv": ITEMS}, **expected)


def _lines(name: str, *lines: str, **expected: Any) -> Broken:
    """JSON lines: two valid rows, then these."""
    good = [
        '{"user_id": "ann", "item_id": "tea", "ts": "2011-08-30T08:00:00Z", "event": "view"}',
        '{"user_id": "bob", "item_id": "cup", "ts": "2011-08-30T08:00:00Z", "event": "view"}',
    ]
    return Broken(name, files={"events/e.jsonl": "\n".join([*good, *lines]), "items.csv": ITEMS}, **expected)


def _table(**columns: Any) -> pa.Table:
    """Valid columns, as long as the given ones; None removes a column."""
    rows = max([2, *(len(column) for column in columns.values() if column is not None)])
    good: dict[str, Any] = {
        "user_id": ["ann", "bob"],
        "item_id": ["tea", "cup"],
        "ts": ["2011-08-30T08:00:00", "2011-08-30T09:00:00"],
        "event": ["view", "view"],
        "value": [1.0, 2.0],
        "dwell_ms": [5, None],
    }
    repeated = {name: [column[row % 2] for row in range(rows)] for name, column in good.items()}
    return pa.table({name: column for name, column in (repeated | columns).items() if column is not None})


FILES = [
    Broken("no_data_root", files={}, says=("no files under data.root", "--set data.root")),
    Broken("no_event_files", files={"items.csv": ITEMS}, says=("data.interactions.path", "items.csv")),
    Broken(
        "a_misspelt_folder",
        files={"event/2011-08-30.csv": EVENTS, "items.csv": ITEMS},
        says=("no file matches data.interactions.path 'events'", "event"),
    ),
    Broken("no_item_file", files={DAY_FILE: EVENTS}, says=("data.items.path 'items.csv'",)),
    Broken("a_date_before_all_data", day=date(2001, 1, 1), says=("2001-01-01", "2011-08-30")),
    Broken("a_date_long_after_all_data", day=date(2031, 1, 1), says=("2011-08-30", "window_days")),
    Broken(
        "no_row_in_the_window",
        files={"events/all.csv": EVENTS, "items.csv": ITEMS},
        day=date(2031, 1, 1),
        says=("no interactions in the",),
    ),
    Broken(
        "a_file_of_unknown_kind",
        files=good_files() | {"events/README": "hello"},
        says=("suffix names no known format", "README", "data.interactions.format"),
    ),
    _events("an_empty_file_only", "", says=("no interactions",)),
    Broken("an_empty_file_among_others", files=good_files() | {"events/2011-08-29.csv": b""}, histories=2),
    _events("a_header_only", HEADER, says=("no interactions",)),
    _events("a_header_without_line_break", HEADER.strip(), says=("no interactions",)),
    _events("blank_lines_only", "\n\n \n", error=DataError),
    _events("zeros_only", b"\0" * 4096, says=("2011-08-30.csv",)),
    _events("a_picture_named_csv", bytes(range(256)) * 64, says=("2011-08-30.csv",)),
    Broken(
        "gzip_cut_short",
        files={"events/2011-08-30.csv.gz": gzip.compress((HEADER + ROWS * 500).encode())[:-40], "items.csv": ITEMS},
        says=("cannot be read as csv", "2011-08-30.csv.gz"),
    ),
    Broken(
        "gzip_that_is_none",
        files={"events/2011-08-30.csv.gz": EVENTS, "items.csv": ITEMS},
        says=("cannot be read as csv", "2011-08-30.csv.gz"),
    ),
    _parquet("parquet_cut_short", parquet(_table())[:-30], says=("cannot be read as parquet",)),
    _parquet("parquet_that_is_csv", EVENTS.encode(), says=("parquet", "2011-08-30.parquet")),
    _parquet("an_empty_parquet_file", b"", says=("cannot be read as parquet",)),
    _parquet(
        "parquet_with_a_damaged_page",
        parquet(_table(), use_dictionary=False, compression="gzip")[:8]
        + b"\xff" * 40
        + parquet(_table(), use_dictionary=False, compression="gzip")[48:],
        says=("cannot be read as parquet",),
    ),
    _parquet("parquet_without_rows", _table().slice(0, 0), says=("no interactions",)),
]

COLUMNS = [
    _events(
        "a_missing_column",
        EVENTS.replace("user_id", "userid"),
        says=("no column 'user_id'", "did you mean 'userid'", "2011-08-30.csv"),
    ),
    _events("another_delimiter", EVENTS.replace(",", ";"), says=("no column 'user_id'", "delimiter")),
    _events("a_doubled_column", EVENTS.replace("ms\n", "ms,event\n"), says=("'event' occurs 2 times",)),
    _events("utf16", EVENTS.encode("utf-16"), says=("the mark of utf-16", "encoding: utf-16")),
    _events("utf16_without_its_mark", EVENTS.encode("utf-16-le"), says=("set the source's encoding",)),
    _events("parquet_named_csv", parquet(_table()), says=("of the kind parquet", "suffix", "2011-08-30.csv")),
    _events("a_spreadsheet_named_csv", b"PK\x03\x04" + b"\0" * 99, says=("zip (or Excel)",)),
    Broken(
        "parquet_named_json",
        files={"events/e.json": parquet(_table()), "items.csv": ITEMS},
        says=("of the kind parquet", "e.json"),
    ),
    Broken(
        "json_compressed_twice",
        files={"events/e.json.gz": gzip.compress(gzip.compress(b"{}")), "items.csv": ITEMS},
        says=("gzip, compressed twice", "e.json.gz"),
    ),
    Broken(
        "parquet_within_gzip",
        files={"events/e.csv.gz": gzip.compress(parquet(_table())), "items.csv": ITEMS},
        says=("of the kind parquet",),
    ),
    _events("json_named_csv", '{"user_id": "ann", "item_id": "tea"}\n', says=("format: jsonl",)),
    _parquet(
        "durations_for_values", _table(value=pa.array([1, 2], pa.duration("s"))), says=("'value' holds duration",)
    ),
    _events("a_comment_before_the_header", f"# of 2011-08-30\n{EVENTS}", says=("is a comment",)),
    _events("single_quotes", EVENTS.replace("user_id", "'user_id'"), says=('quote: "\'"',)),
    _events("tabs", EVENTS.replace(",", "\t"), says=('delimiter: "\\t"',)),
    _items("an_item_file_without_ids", ITEMS.replace("item_id", "sku"), says=("'item_id'", "'sku'")),
    _parquet("parquet_without_a_column", _table(item_id=None), says=("no column 'item_id'",)),
    _parquet("lists_for_users", _table(user_id=[["a"], ["b"]]), says=("'user_id' holds list",)),
    _parquet("numbers_for_times", _table(ts=[1, 2]), says=("'ts'", "set `unit`")),
    _parquet("nulls_for_users", _table(user_id=pa.nulls(2)), error=QuarantineError, says=("no_user 2",)),
    _parquet("structures_for_events", _table(event=[{"a": 1}, {"a": 2}]), says=("'event' holds str",)),
    _parquet("truth_for_times", _table(ts=[True, False]), says=("'ts'", "bool")),
    Broken(
        "json_lines_without_a_key",
        files={"events/e.jsonl": '{"userId": "ann", "item_id": "tea", "ts": "2011-08-30"}', "items.csv": ITEMS},
        says=("no column 'user_id'", "'userId'"),
    ),
]

ROWS_OF_CSV = [
    _row("too_few_fields", "cat,tea,2011-08-30", malformed_row=1),
    _row("too_many_fields", "cat,tea,2011-08-30,view,1,2,3,4", malformed_row=1),
    _row("an_unclosed_quote", '"cat,tea,2011-08-30,view,,\n' + ROWS.strip(), malformed_row=1, duplicate=3),
    _row("no_user", ",tea,2011-08-30,view,,", no_user=1),
    _row("a_null_of_mysql_for_a_user", "\\N,tea,2011-08-30,view,,", no_user=1),
    _row("a_null_of_mysql_for_a_time", "ann,tea,\\N,view,,", bad_time=1),
    _row("nulls_of_mysql_for_values", "ann,tea,2011-08-30,view,\\N,\\N"),
    _row("a_user_of_white_space", "   ,tea,2011-08-30,view,,", no_user=1),
    _row("no_item", "ann,,2011-08-30,view,,", no_item=1),
    _row("an_unknown_item", "ann,gin,2011-08-30,view,,", unknown_item=1),
    _row("an_unknown_event", "ann,tea,2011-08-30,dance,,", unknown_event=1),
    _row("no_event", "ann,tea,2011-08-30,,,", unknown_event=1),
    _row("no_time", "ann,tea,,view,,", bad_time=1),
    _row("a_time_in_words", "ann,tea,yesterday,view,,", bad_time=1),
    _row("the_thirtieth_of_february", "ann,tea,2011-02-30,view,,", bad_time=1),
    _row("a_time_in_the_far_future", "ann,tea,9999-12-31,view,,", bad_time=1),
    _row("a_time_beyond_all_bounds", "ann,tea,99999999-12-31,view,,", bad_time=1),
    _row("a_time_before_the_shop", "ann,tea,1970-01-01,view,,", bad_time=1),
    _row("a_time_on_the_date_itself", "ann,tea,2011-08-31,view,,"),
    _row("a_value_in_words", "ann,tea,2011-08-30,view,many,", bad_value=1),
    _row("a_price_with_its_currency", "ann,tea,2011-08-30,view,£3.50,", bad_value=1),
    _row("a_decimal_comma", 'ann,tea,2011-08-30,view,"1.234,56",', bad_value=1),
    _row("an_infinite_value", "ann,tea,2011-08-30,view,inf,", bad_value=1),
    _row("a_value_too_great", "ann,tea,2011-08-30,view,1e300,", bad_value=1),
    _row("a_negative_dwell", "ann,tea,2011-08-30,view,,-1", negative_dwell=1),
    _row("a_dwell_in_words", "ann,tea,2011-08-30,view,,long", bad_dwell=1),
    _row("a_dwell_of_months", "ann,tea,2011-08-30,view,,99999999999", bad_dwell=1),
    _row("an_undecodable_user", b"\xff\xfe,tea,2011-08-30,view,,", bad_encoding=1),
    _row("an_undecodable_item", "ann,café,2011-08-30,view,,".encode("latin-1"), bad_encoding=1),
    _row("an_undecodable_row_of_too_few_fields", b"\xff\xfe", malformed_row=1),
    _row("a_control_character_in_a_user", "a\x07nn,tea,2011-08-30,view,,", control_characters=1),
    _row("hidden_text_in_an_item", "ann,te\u202ea,2011-08-30,view,,", control_characters=1),
    _row("a_line_break_in_a_user", '"a\nnn",tea,2011-08-30,view,,', control_characters=1),
    _row("a_user_of_a_megabyte", "u" * (1 << 20) + ",tea,2011-08-30,view,,", too_long_id=1),
    _row("the_same_row_again", ROWS.splitlines()[0], duplicate=1),
    _row("a_user_with_nothing_right", "cat,gin,2011-08-30,view,,", unknown_item=1, all_events_quarantined=1),
    _row("a_user_who_only_returned", "cat,tea,2011-08-30,return,,", too_few_events=1),
    Broken(
        "values_with_their_currency",
        config=_config(interactions={"value": {"column": "value", "number": "1.234,56"}}),
        files=good_files()
        | {DAY_FILE: HEADER + 'ann,tea,2011-08-30,view,"1.234,56 €",\nann,cup,2011-08-30,view,3 for 2,\n'},
        reasons={"bad_value": 1},
    ),
    Broken(
        "a_user_of_one_event",
        config=good_config() | {"data": good_config()["data"] | {"min_events": 2}},
        reasons={"too_few_events": 1},
        histories=1,
    ),
    _events("a_byte_order_mark", b"\xef\xbb\xbf" + EVENTS.encode(), histories=2),
    _events("windows_line_ends", EVENTS.replace("\n", "\r\n"), histories=2),
    _events(
        "more_broken_than_allowed",
        HEADER + ROWS + ",tea,2011-08-30,view,,\n" * 20,
        error=QuarantineError,
        says=("20 of 23 rows", "87.0%", "no_user 20", "max_quarantine_share"),
    ),
    _events(
        "a_row_longer_than_can_be_held",
        EVENTS + '"' + "x" * (33 << 20) + '",tea,2011-08-30,view,,\n',
        says=("in line 5 is longer than 16 MB", "its quote does not close"),
    ),
]

ROWS_OF_OTHERS = [
    _lines("a_line_that_is_no_json", "{not json", reasons={"malformed_row": 1}, histories=2),
    _lines("a_line_cut_short", '{"user_id": "ann", "item', reasons={"malformed_row": 1}),
    _lines("a_line_that_is_a_list", "[1, 2]", reasons={"malformed_row": 1}),
    _lines("a_line_nested_too_deeply", "[" * 100_000, reasons={"malformed_row": 1}),
    _lines("a_number_of_too_many_digits", "9" * 10_000, reasons={"malformed_row": 1}),
    _lines(
        "an_object_for_a_user",
        '{"user_id": {"id": 1}, "item_id": "gin", "ts": "2011-08-30", "event": "view"}',
        reasons={"not_an_id": 1},
    ),
    _lines(
        "a_list_and_a_truth_value_for_users",
        '{"user_id": ["ann"], "item_id": "tea", "ts": "2011-08-30", "event": "view"}',
        '{"user_id": true, "item_id": "tea", "ts": "2011-08-30", "event": "view"}',
        reasons={"not_an_id": 2},
    ),
    _lines(
        "a_list_for_an_item",
        '{"user_id": "ann", "item_id": [{"item_id": "tea"}], "ts": "2011-08-30", "event": "view"}',
        reasons={"not_an_id": 1},
    ),
    _lines(
        "half_a_character",
        '{"user_id": "\\ud800", "item_id": "tea", "ts": "2011-08-30", "event": "view"}',
        reasons={"bad_encoding": 1},
    ),
    _lines(
        "json_numbers_that_are_none",
        '{"user_id": "ann", "item_id": "tea", "ts": "2011-08-30", "event": "view", "value": NaN}',
        '{"user_id": "ann", "item_id": "tea", "ts": "2011-08-30", "event": "view", "value": -Infinity}',
        reasons={"bad_value": 1},
    ),
    _parquet(
        "an_infinite_float",
        _table(value=[1.0, 2.0, float("inf"), float("nan")]),
        reasons={"bad_value": 1, "duplicate": 1},
    ),
    _parquet("null_users", _table(user_id=["ann", None]), reasons={"no_user": 1}),
    _parquet("users_that_are_floats", _table(user_id=[1.0, float("nan")]), reasons={"no_user": 1}, histories=1),
    _parquet("bytes_for_users", _table(user_id=pa.array([b"ann", b"\xff"], pa.binary())), reasons={"bad_encoding": 1}),
    _parquet("text_for_values", _table(value=["1.5", "2", "lots"]), reasons={"bad_value": 1}),
    _parquet(
        "a_time_that_overflows",
        _table(ts=pa.array([1314691200_000_000, 1314691200_000_000, 1 << 62], pa.timestamp("us"))),
        reasons={"bad_time": 1},
    ),
]

ITEMS_BROKEN = [
    _items("an_empty_catalogue", ITEMS.splitlines()[0] + "\n", says=("the catalogue is empty",)),
    _items("an_empty_item_file", "", says=("the catalogue is empty",)),
    _items("only_broken_items", "item_id,title,price\n,no id,1\n", says=("the catalogue is empty", "1 rows broke")),
    _items("an_item_twice", ITEMS + "tea,Another tea,1\n", reasons={"duplicate_item": 1}, histories=2),
    _items("an_item_without_id", ITEMS + ",Nothing,1\n", reasons={"no_item": 1}),
    _items("an_item_of_a_control_character", ITEMS + "x\x00y,Odd,1\n", reasons={"control_characters": 1}),
    _items("an_undecodable_item_id", ITEMS.encode() + b"\xe9\xe8,Odd,1\n", reasons={"bad_encoding": 1}),
    _items("an_item_of_too_few_fields", ITEMS + "mug\n", reasons={"malformed_row": 1}),
    _items("a_title_of_a_megabyte", ITEMS + "mug," + "very " * 200_000 + ",1\n", histories=2),
    _items("an_undecodable_title", ITEMS.encode() + b"mug,caf\xe9,1\n", histories=2),
]


DATA_CASES: tuple[Broken, ...] = (*FILES, *COLUMNS, *ROWS_OF_CSV, *ROWS_OF_OTHERS, *ITEMS_BROKEN)
