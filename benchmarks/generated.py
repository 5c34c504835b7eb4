"""Synthetic events at any size, for the scale benchmark: N users × M events over I items, one parquet file a day.

python -m benchmarks.generated --out /tmp/made --users 1000000 --events 50 --items 20000

Users come in chunks, and every chunk adds a row group to each day's file, so memory is bounded by the chunk. Users
prefer two of the catalogue's categories and draw four of five events from them, by popularity, so that retrievers and
denoising have a signal. One row in a thousand breaks the data contract. This module does not import rayrec: its files
are input like any other.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

LAST_DAY = date(2026, 3, 1)  # the day to recommend for is the next one
EVENTS = ("view", "purchase", "return")
SCHEMA = pa.schema(
    [
        ("user_id", pa.dictionary(pa.int32(), pa.string())),
        ("item_id", pa.dictionary(pa.int32(), pa.string())),
        ("ts", pa.timestamp("us", tz="UTC")),
        ("event", pa.dictionary(pa.int8(), pa.string())),
    ]
)
_KINDS = 100
_CHUNK = 2_000_000  # events made at once: about 200 MB
_BROKEN = 0.001


@dataclass(frozen=True)
class Made:
    root: Path  # events/dt=YYYY-MM-DD.parquet, items.parquet
    date: date
    users: int
    rows: int


def make(out: str | Path, *, users: int, events: int, items: int, days: int = 60, seed: int = 0) -> Made:
    """Write the data under `out`; the same rows for the same arguments."""
    root = Path(out)
    (root / "events").mkdir(parents=True, exist_ok=True)
    item_ids = _ids("i", np.arange(items))
    _write_items(root, item_ids, items)
    first = LAST_DAY - timedelta(days=days - 1)
    at_once = max(1, _CHUNK // events)
    with ExitStack() as stack:
        names = [root / "events" / f"dt={first + timedelta(days=day)}.parquet" for day in range(days)]
        writers = [stack.enter_context(pq.ParquetWriter(name, SCHEMA, compression="zstd")) for name in names]
        for number, start in enumerate(range(0, users, at_once)):
            chunk = np.arange(start, min(start + at_once, users))
            table, day = _chunk(np.random.default_rng([seed, number]), chunk, events, item_ids, first, days)
            edges = np.searchsorted(day, np.arange(days + 1))
            for writer, begin, end in zip(writers, edges[:-1], edges[1:], strict=True):
                writer.write_table(table.slice(begin, end - begin))
    return Made(root, LAST_DAY + timedelta(days=1), users, users * events)


def _chunk(
    rng: np.random.Generator, users: npt.NDArray[np.int64], events: int, item_ids: pa.Array, first: date, days: int
) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """The events of some users in order of time, and the day of each."""
    rows, items = len(users) * events, len(item_ids)
    per_kind = -(-items // _KINDS)
    user = np.repeat(np.arange(len(users), dtype=np.int32), events)
    liked = rng.integers(_KINDS, size=(len(users), 2))
    kind = liked[user, rng.integers(2, size=rows)]
    anywhere = rng.random(rows) < 0.2
    kind[anywhere] = rng.integers(_KINDS, size=int(anywhere.sum()))
    place = np.floor(per_kind * rng.random(rows) ** 2.5).astype(np.int64)  # P(place < x) ~ x^0.4: the first are popular
    item = (place * _KINDS + kind) % items
    # One sortable number an event, in whole seconds: cheaper to sort than columns.
    second = rng.integers(days * 86_400, size=rows)
    order = np.argsort(second, kind="stable")
    second = second[order]
    event = rng.choice(3, rows, p=[0.7, 0.28, 0.02]).astype(np.int8)
    midnight = int(datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp())
    user_id = pa.DictionaryArray.from_arrays(pa.array(user[order], mask=rng.random(rows) < _BROKEN), _ids("u", users))
    columns: list[Any] = [
        user_id,
        pa.DictionaryArray.from_arrays(pa.array(item[order].astype(np.int32)), item_ids),
        pa.array((second + midnight) * 1_000_000).cast(SCHEMA.field("ts").type),
        pa.DictionaryArray.from_arrays(pa.array(event), pa.array(EVENTS)),
    ]
    return pa.table(columns, schema=SCHEMA), second // 86_400


def _ids(prefix: str, numbers: npt.NDArray[np.int64]) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 8, "0"), "")


def _write_items(root: Path, item_ids: pa.Array, items: int) -> None:
    kind = pa.array([f"kind {number % _KINDS:02d}" for number in range(items)])
    title = pc.binary_join_element_wise("Item", item_ids, "of", kind, " ")
    pq.write_table(pa.table({"item_id": item_ids, "title": title, "category": kind}), root / "items.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make events for the scale benchmark.")
    parser.add_argument("--out", required=True)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=50, help="per user")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    started = time.perf_counter()
    made = make(**arguments)
    size = sum(file.stat().st_size for file in made.root.rglob("*.parquet"))
    took = time.perf_counter() - started
    sys.stdout.write(f"{made.rows:,} rows, {size / 1e6:,.0f} MB in {made.root}, for --date {made.date}: {took:.0f} s\n")


if __name__ == "__main__":
    main()
