"""Small files that decode to a great deal.

As a script, `python small_files.py MEGABYTES SECONDS` ingests each of them under limits of memory and CPU time, and
prints a JSON object: name -> the error's text, or the quarantined rows by reason.
"""

from __future__ import annotations

import gzip
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from small_shop import HEADER, ITEMS, ROWS, good_config, parquet, run

from rayrec.errors import RayrecError

_GOOD = (HEADER + ROWS).encode()
_ROWS = 1 << 16


def _dictionary(kind: pa.DataType, column: str) -> bytes:
    """One long value, which every row refers to."""
    texts = {"user_id": "ann", "item_id": "tea", "ts": "2011-08-30", "event": "view"}
    values = {name: pa.array([text]) for name, text in texts.items()} | {column: pa.array(["u" * 30_000]).cast(kind)}
    codes = pa.array([0] * _ROWS, pa.int32())
    return parquet(pa.table({name: pa.DictionaryArray.from_arrays(codes, value) for name, value in values.items()}))


def _lists() -> bytes:
    offsets = pa.array([0, 1_000_000], pa.int32())
    users = pa.ListArray.from_arrays(offsets, pa.array([None] * 1_000_000, pa.int8()))
    return parquet(pa.table({"user_id": users, "item_id": ["tea"], "ts": ["2011-08-30"], "event": ["view"]}))


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "user.parquet": (lambda: _dictionary(pa.binary(), "user_id"), f"too_long_id {_ROWS:,}"),
    "event.parquet": (lambda: _dictionary(pa.string(), "event"), f"unknown_event {_ROWS:,}"),
    "lists.parquet": (_lists, "'user_id' holds list"),
    "columns.csv": (lambda: b"user_id," + b"a," * 400_000 + b"b\n" + b"1," * 400_001 + b"1\n", "400,002 columns"),
    "blank_lines.csv.gz": (lambda: gzip.compress(_GOOD + b"\n" * (100 << 20)), "200 times its size"),
    "short_rows.csv.gz": (lambda: gzip.compress(_GOOD + b"x\n" * (2 << 20), 1), "cannot be split into fields"),
    "blank_lines.jsonl.gz": (lambda: gzip.compress(b"\n" * (100 << 20)), "200 times its size"),
    "objects.jsonl.gz": (lambda: gzip.compress(b"{}" * (5 << 20), 1), "no column 'user_id'"),
    "braces.jsonl": (lambda: b'{"a":' * (3 << 20) + b"\n", "malformed_row 1"),
}
"""Name -> the content, and words of the outcome."""


def outcome(name: str, content: bytes) -> str:
    config = good_config()
    interactions = {"path": name, "event": {"column": "event"}}
    config["data"] |= {"interactions": interactions, "max_quarantine_share": 1.0}
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = run(Path(folder), config, {name: content, "items.csv": ITEMS})
        except RayrecError as error:
            return str(error)
        return f"{dict(result.rows.quarantined)}"


if __name__ == "__main__":
    megabytes, seconds = map(int, sys.argv[1:])
    small = outcome("e.csv", _GOOD)  # imports and pools are not counted
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    contents = {name: content() for name, (content, _) in FILES.items()}
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)
    cpu = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu + seconds,) * 2)
    print(json.dumps({name: outcome(name, content) for name, content in contents.items()}))
