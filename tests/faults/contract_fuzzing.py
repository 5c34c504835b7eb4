"""The contract of interactions against an oracle in plain Python: the same rows in any Arrow type, encoding and layout.

Logical rows are drawn first; then a format, a type for each column that can hold it exactly, and a layout of files. The
oracle knows the logical rows only.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from small_shop import DAY, Outcome, good_config, run

WINDOW_DAYS = 30
END = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
EVENTS = {"purchase": 1.0, "view": 0.5, "return": -1.0}
ITEMS = {"text": ("cup", "pot", "tea"), "number": ("11", "222", "7")}
USERS = {"text": ("ann", "bob", "Zoë", "x" * 256), "number": ("1", "20", "987654321012", "0")}
COLUMNS = ("user_id", "item_id", "ts", "event", "value", "dwell_ms")


@dataclass(frozen=True)
class Row:
    user: str | None
    item: str | None
    ts: datetime | None  # in whole seconds
    event: str | None
    value: float | None
    dwell: int | None


@dataclass(frozen=True)
class Case:
    """`kind`: of ids. `chooser`: of types and layouts."""

    kind: str
    rows: tuple[Row, ...]
    chooser: int


def rows_of(kind: str) -> st.SearchStrategy[tuple[Row, ...]]:
    moment = st.integers(-3 * 86_400, (WINDOW_DAYS + 3) * 86_400).map(lambda s: END - timedelta(seconds=s))
    few = st.sampled_from([END - timedelta(hours=hours) for hours in (1, 2, 3)])  # duplicates
    row = st.builds(
        Row,
        st.one_of(st.sampled_from(USERS[kind]), st.none()),
        st.one_of(st.sampled_from([*ITEMS[kind], "404"]), st.none()),
        st.one_of(moment, few, few, st.none()),
        st.one_of(st.sampled_from([*EVENTS, "dance"]), st.none()),
        st.one_of(st.integers(-40, 40).map(lambda n: n / 4), st.none()),
        st.one_of(st.integers(-2, 100_000), st.none()),
    )
    sound = Row(USERS[kind][0], ITEMS[kind][0], END - timedelta(days=1), "view", 1.0, 5)  # else a refusal is right
    return st.lists(row, max_size=25).map(lambda rows: (sound, *rows))


def cases() -> st.SearchStrategy[Case]:
    kinds = st.sampled_from(sorted(USERS))
    return kinds.flatmap(lambda kind: st.builds(Case, st.just(kind), rows_of(kind), st.integers(0, 1 << 30)))


# --- The oracle ---


Event = tuple[str, int, str, float | None, int | None]  # item, microseconds, event, value, dwell


def _micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


@dataclass(frozen=True)
class Expected:
    reasons: Counter[str]  # of rows and users
    outside: int
    histories: dict[str, list[Event]]


def expected(case: Case) -> Expected:
    """By the contract's words: docs/data.md."""
    reasons, outside, users, good = Counter[str](), 0, set[str](), list[Row]()
    for row in case.rows:
        if row.ts is not None and not END - timedelta(days=WINDOW_DAYS) <= row.ts < END:
            outside += 1
            continue
        if row.user is not None:
            users.add(row.user)
        if wrong := _wrong(row, ITEMS[case.kind]):
            reasons[wrong] += 1
        else:
            good.append(row)
    found: dict[str, list[Event]] = defaultdict(list)
    seen = set[tuple[Any, ...]]()
    for row in sorted(good, key=lambda row: row.ts or END):  # stable: by file and row where times are equal
        key = (row.user, row.item, row.ts, row.event)
        if key in seen:
            reasons["duplicate"] += 1
            continue
        seen.add(key)
        found[str(row.user)].append((str(row.item), _micros(row.ts or END), str(row.event), row.value, row.dwell))
    eligible = {user: events for user, events in found.items() if any(EVENTS[event[2]] > 0 for event in events)}
    reasons["too_few_events"] += len(found) - len(eligible)
    reasons["all_events_quarantined"] += len(users) - len(found)
    return Expected(+reasons, outside, eligible)


def _wrong(row: Row, items: Sequence[str]) -> str:
    """The first check that the row fails."""
    checks = {
        "no_user": row.user is None,
        "no_item": row.item is None,
        "bad_time": row.ts is None,
        "unknown_event": row.event not in EVENTS,
        "unknown_item": row.item not in items,
        "negative_dwell": row.dwell is not None and row.dwell < 0,
    }
    return next((reason for reason, failed in checks.items() if failed), "")


# --- Types that hold a column exactly ---

Values = list[Any]


def _dictionary(values: pa.Array, chance: random.Random) -> pa.Array:
    index = chance.choice([pa.int8(), pa.uint8(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()])
    encoded = pc.dictionary_encode(values)
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(index), encoded.dictionary)


def text_types(values: Values, chance: random.Random) -> pa.Array:
    array = pa.array(values, pa.string())
    kinds = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary())
    choice = chance.randrange(len(kinds) + 2)
    return array.cast(kinds[choice]) if choice < len(kinds) else _dictionary(array, chance)


def number_id_types(values: Values, chance: random.Random) -> pa.Array:
    numbers = [None if value is None else int(value) for value in values]
    makers: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array(numbers, pa.int64()),
        lambda: pa.array(numbers, pa.uint64()),
        lambda: pa.array([None if n is None else float(n) for n in numbers], pa.float64()),
        lambda: pa.array([None if n is None else Decimal(n) for n in numbers], pa.decimal128(30, 10)),
        lambda: pa.array([None if n is None else Decimal(n) for n in numbers], pa.decimal128(20, 0)),
        lambda: _dictionary(pa.array(numbers, pa.int64()), chance),
        lambda: text_types(
            [None if n is None else chance.choice([f"{n}", f"{n}.0", f" {n} "]) for n in numbers], chance
        ),
    )
    return chance.choice(makers)()


def time_types(values: Values, chance: random.Random) -> tuple[pa.Array, dict[str, Any]]:
    """The column, and the settings that it needs."""
    seconds = [None if value is None else int(value.timestamp()) for value in values]
    unit = chance.choice(["s", "ms", "us", "ns"])
    scale = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[unit]
    integers = pa.array([None if n is None else n * scale for n in seconds], pa.int64())
    london, berlin = "Europe/London", timedelta(hours=2)
    naive = [None if value is None else value.replace(tzinfo=None) for value in values]
    makers: tuple[Callable[[], tuple[pa.Array, dict[str, Any]]], ...] = (
        lambda: (integers.cast(pa.timestamp(unit)), {}),
        lambda: (integers.cast(pa.timestamp(unit, "UTC")), {}),
        lambda: (integers.cast(pa.timestamp(unit, london)), {"timezone": "Asia/Tokyo"}),  # the column's own zone counts
        lambda: (integers, {"unit": unit}),
        lambda: (pa.array([None if n is None else float(n) for n in seconds], pa.float64()), {"unit": "s"}),
        lambda: (pa.array([None if n is None else str(n) for n in seconds], pa.string()), {"unit": "s"}),
        lambda: (_texts(naive, "%Y-%m-%d %H:%M:%S"), {}),
        lambda: (_texts(naive, "%Y-%m-%dT%H:%M:%SZ"), {"timezone": "Asia/Tokyo"}),
        lambda: (_texts([None if t is None else t + berlin for t in naive], "%Y-%m-%dT%H:%M:%S+02:00"), {}),
        lambda: (_texts(naive, "%d/%m/%Y %H:%M:%S"), {"format": "%d/%m/%Y %H:%M:%S"}),
        lambda: (_dictionary(_texts(naive, "%Y-%m-%d %H:%M:%S"), chance), {}),
    )
    return chance.choice(makers)()


def _texts(values: Values, format: str) -> pa.Array:
    return pa.array([None if value is None else value.strftime(format) for value in values], pa.string())


def value_types(values: Values, chance: random.Random) -> pa.Array:
    makers: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array(values, pa.float64()),
        lambda: pa.array(values, pa.float32()),
        lambda: pa.array([None if v is None else Decimal(str(v)) for v in values], pa.decimal128(12, 4)),
        lambda: pa.array([None if v is None else chance.choice([repr(v), f" {v:e}"]) for v in values], pa.string()),
    )
    return chance.choice(makers)()


def dwell_types(values: Values, chance: random.Random) -> pa.Array:
    makers: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array(values, pa.int64()),
        lambda: pa.array(values, pa.int32()),
        lambda: pa.array(None if v is None else float(v) for v in values).cast(pa.float64()),
        lambda: pa.array([None if v is None else str(v) for v in values], pa.string()),
    )
    return chance.choice(makers)()


def table_of(case: Case, chance: random.Random) -> tuple[pa.Table, dict[str, Any]]:
    """All rows as one table of chosen types, and the settings of its time column."""
    ids = text_types if case.kind == "text" else number_id_types
    column = {
        name: [getattr(row, field) for row in case.rows]
        for name, field in zip(COLUMNS, Row.__annotations__, strict=True)
    }
    ts, settings_of_ts = time_types(column["ts"], chance)
    arrays = {
        "user_id": ids(column["user_id"], chance),
        "item_id": ids(column["item_id"], chance),
        "ts": ts,
        "event": text_types(column["event"], chance),
        "value": value_types(column["value"], chance),
        "dwell_ms": dwell_types(column["dwell_ms"], chance),
        "other": pa.array([[1]] * len(case.rows)),
    }
    names = chance.sample(list(arrays), len(arrays))
    return pa.table({name: arrays[name] for name in names}), settings_of_ts


# --- Layouts ---


def files_of(table: pa.Table, chance: random.Random) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The table in files of one format, in row order by their names, and the settings that they need."""
    cuts = sorted(chance.choices(range(table.num_rows + 1), k=chance.randrange(3)))
    bounds = [0, *cuts, table.num_rows]
    parts = [table.slice(start, end - start) for start, end in pairwise(bounds)]
    format = chance.choice(["parquet", "parquet", "csv", "jsonl"])
    if format == "parquet":
        return {f"events/{n:02d}.parquet": _parquet(part, chance) for n, part in enumerate(parts)}, {}
    packed, ending = (gzip.compress, ".gz") if chance.random() < 0.3 else (bytes, "")
    if format == "jsonl":
        return {f"events/{n:02d}.jsonl{ending}": packed(_jsonl(part, chance)) for n, part in enumerate(parts)}, {}
    delimiter = chance.choice([",", ";", "\t"])
    written = {f"events/{n:02d}.csv{ending}": packed(_csv(part, delimiter)) for n, part in enumerate(parts)}
    return written, {"delimiter": delimiter}


def _parquet(table: pa.Table, chance: random.Random) -> bytes:
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=chance.choice([1, 3, 1000]),
        compression=chance.choice(["none", "snappy", "zstd", "gzip"]),
        use_dictionary=chance.random() < 0.5,
        data_page_version=chance.choice(["1.0", "2.0"]),
        store_schema=chance.random() < 0.7,
    )
    return sink.getvalue()


def _plain(table: pa.Table) -> pa.Table:
    """Columns as text formats can hold them."""
    for at, name in enumerate(table.column_names):
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if (
            pa.types.is_binary(column.type)
            or pa.types.is_large_binary(column.type)
            or pa.types.is_string_view(column.type)
        ):
            column = column.cast(pa.large_string())
        table = table.set_column(at, name, column)
    return table


def _csv(table: pa.Table, delimiter: str) -> bytes:
    sink, plain = io.BytesIO(), _plain(table).drop_columns(["other"])
    for at, name in enumerate(plain.column_names):
        if pa.types.is_timestamp(plain[name].type):
            texts = pc.strftime(
                plain[name].cast(pa.timestamp("s", plain[name].type.tz)),
                "%Y-%m-%dT%H:%M:%S%z" if plain[name].type.tz else "%Y-%m-%dT%H:%M:%S",
            )
            plain = plain.set_column(at, name, texts)
    pa_csv.write_csv(plain, sink, pa_csv.WriteOptions(delimiter=delimiter))
    return sink.getvalue()


def _jsonl(table: pa.Table, chance: random.Random) -> bytes:
    lines = []
    for row in _plain(table).to_pylist():
        needed = ("user_id", "item_id", "ts")  # a file without one of them is refused
        kept = {key: value for key, value in row.items() if value is not None or key in needed or chance.random() < 0.5}
        lines.append(json.dumps(kept, default=str, ensure_ascii=chance.random() < 0.5))
    return "".join(f"{line}\n" for line in lines).encode()


# --- The comparison ---


def try_case(case: Case) -> None:
    chance = random.Random(case.chooser)
    table, settings_of_ts = table_of(case, chance)
    files, settings_of_files = files_of(table, chance)
    config = good_config()
    config["data"] |= {
        "max_quarantine_share": 1.0,
        "window_days": WINDOW_DAYS,
        "events": EVENTS,
        "shards": chance.randint(1, 3),
    }
    config["data"]["interactions"] |= {"ts": {"column": "ts", **settings_of_ts}, **settings_of_files}
    config["data"]["items"] = {"path": "items.csv"}
    items = "item_id,title\n" + "".join(f"{item},{item}\n" for item in ITEMS[case.kind])
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), config, {**files, "items.csv": items})
    assert_same(outcome, expected(case))


def assert_same(outcome: Outcome, should: Expected) -> None:
    assert Counter(outcome.reasons) == should.reasons
    assert outcome.rows.outside_window == should.outside
    names = outcome.catalogue["item_id"].to_pylist()
    events = list(EVENTS)
    found = {}
    for user, row in outcome.histories().items():
        columns = zip(row["item"], row["ts"], row["event"], row["value"], row["dwell_ms"], strict=True)
        found[user] = [
            (
                names[item],
                ts,
                events[event],
                None if value is None or value != value else value,
                None if dwell < 0 else dwell,
            )
            for item, ts, event, value, dwell in columns
        ]
    assert found == should.histories


def fuzz(examples: int, seed: int | None = None) -> int:
    """Try so many cases; raises what a case raises, as its smallest example. The number of those tried."""
    tried = [0]

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(cases())
    def attempt(case: Case) -> None:
        tried[0] += 1
        try_case(case)

    (attempt if seed is None else seeded(seed)(attempt))()
    return tried[0]
