"""Quarantine: input rows that broke their contract, with reason, location and content."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data import time_zones
from rayrec.data.erasure_list import ErasureList
from rayrec.data.raw_rows import MAX_RAW_CHARS, Malformed, RawBatch
from rayrec.data.schemas import QUARANTINE
from rayrec.data.text_columns import distinct, is_raw_uuid, plain, strings
from rayrec.errors import NoInteractionsError, QuarantineError
from rayrec.storage import Storage
from rayrec.storage.concurrent_reads import read_all
from rayrec.storage.tables import read_parquet

_MAX_DETAIL_CHARS = 200
_EXAMPLES, _EXAMPLE_FILES, _EXAMPLE_ROWS = 5, 8, 1000  # rows shown in an error, and files and rows searched for them
_as_json = json.JSONEncoder(ensure_ascii=False, default=str).encode


def quarantined(
    file: str,
    batch: RawBatch,
    at: npt.NDArray[np.int64],
    reasons: Sequence[str],
    details: Sequence[str],
    users: Sequence[str | None],
) -> pa.Table:
    """QUARANTINE of the rows `at` of a batch; the following arguments are aligned with `at`."""
    users = [user and user[:MAX_RAW_CHARS] for user in users]
    return _table(file, batch.row[at], users, reasons, details, _raw(batch, at))


def malformed_rows(file: str, rows: Sequence[Malformed]) -> pa.Table:
    """QUARANTINE of rows that cannot be split into fields; `raw` holds the text as a JSON string."""
    count, details = len(rows), [row.detail for row in rows]
    raw = [_capped({"line": row.raw}) for row in rows]
    return _table(file, [row.row for row in rows], [None] * count, ["malformed_row"] * count, details, raw)


def _table(
    file: str,
    rows: npt.ArrayLike,
    users: Sequence[str | None],
    reasons: Sequence[str],
    details: Sequence[str],
    raw: Sequence[str],
) -> pa.Table:
    shortened = [detail[:_MAX_DETAIL_CHARS] for detail in details]
    return pa.table([[file] * len(reasons), rows, users, reasons, shortened, raw], schema=QUARANTINE)


def without_contents(
    table: pa.Table, erasure_list: ErasureList, *, every_row_without_user: bool = False
) -> tuple[pa.Table, int]:
    """QUARANTINE without what may be of users on the erasure list, and the number of rows that lost their contents.

    A row of theirs, or with their id among its raw values, keeps file, number and reason. Rows whose user cannot be
    read may be of anybody: with `every_row_without_user` all of them lose their contents.
    """
    if not erasure_list or not table.num_rows:
        return table, 0
    theirs = erasure_list.contains(table["user_id"])
    for name in ("raw", "detail"):
        theirs |= erasure_list.mentioned_in(table[name])
    if every_row_without_user:
        theirs |= table["user_id"].is_null().to_numpy()
    held = theirs & ~(table["raw"].is_null().to_numpy() & table["detail"].is_null().to_numpy())
    for name in ("user_id", "detail", "raw"):
        place, field = table.schema.get_field_index(name), table.schema.field(name)
        emptied = pc.if_else(pa.array(theirs), pa.scalar(None, field.type), table[name])
        table = table.set_column(place, field, emptied)
    return table, int(np.count_nonzero(held))


def counts_by_reason(table: pa.Table) -> dict[str, int]:
    """Rows by reason, most first."""
    counts = Counter(table["reason"].to_pylist())
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def check_share(
    rows: int, by_reason: Mapping[str, int], limit: float, of: str, examples: Callable[[], str] = lambda: ""
) -> None:
    """Raise NoInteractionsError without rows in the window, QuarantineError if all, or more than `limit`, broke the
    contract.

    `examples`: gives the first rows of each reason as text for the error; called only then.
    """
    if not rows:
        raise NoInteractionsError(
            f"there are no interactions in {of}", hint="choose another --date, or raise data.window_days"
        )
    hint = "look at the rows under quarantine/, correct the data or the config, or raise data.max_quarantine_share"
    _check_share(rows, by_reason, limit, f"rows of {of}", "", hint, examples)


def quarantine_examples(storage: Storage, folder: str) -> str:
    """The first quarantined row of each of the most frequent reasons, as lines: reason, file, row, column and value.

    Reads the first rows of a few files of `folder`.
    """
    found: dict[str, str] = {}
    counts = Counter[str]()
    written = [info for info in storage.list(folder) if info.path.endswith(".parquet")]
    columns = ["reason", "file", "row", "detail", "user_id"]
    for table in read_all(lambda info: read_parquet(storage, info.path, columns=columns), written[:_EXAMPLE_FILES]):
        for row in table.slice(0, _EXAMPLE_ROWS).to_pylist():
            counts[row["reason"]] += 1
            detail = str(row["detail"]).replace(str(row["user_id"] or "\0"), "…")  # no id in an error
            found.setdefault(row["reason"], f"{row['file']}, row {row['row']}: {_printable(detail)}")
    return "\n".join(f"  {reason}: {found[reason]}" for reason, _ in counts.most_common(_EXAMPLES))


def _printable(text: str) -> str:
    """The text without control, format and other invisible characters, each written as `?`."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def check_quarantine(quarantine: pa.Table, rows: int, limit: float, of: str, where: str, hint: str) -> None:
    """Raise QuarantineError if all, or more than `limit`, of the `rows` of a source are in `quarantine`."""
    if quarantine.num_rows:
        first = quarantine.slice(0, 1).to_pylist()[0]
        detail = str(first["detail"]).replace(str(first["user_id"] or "\0"), "…")  # no id in an error
        where = f"{where}, the first in {first['file']}, row {first['row']}: {detail}"
        _check_share(rows, counts_by_reason(quarantine), limit, of, where, hint, lambda: "")


def _check_share(
    rows: int,
    by_reason: Mapping[str, int],
    limit: float,
    of: str,
    where: str,
    hint: str,
    examples: Callable[[], str],
) -> None:
    broken = sum(by_reason.values())
    if broken <= limit * rows and broken < rows:
        return
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(by_reason.items(), key=lambda pair: -pair[1]))
    share = f"{broken / rows:.1%}, allowed {limit:.1%}"
    what = f"{broken:,} of {rows:,} {of} broke the contract ({share}): {reasons}"
    if shown := examples():
        what += f"; for example\n{shown}"
    raise QuarantineError(what, where=where, hint=hint)


def _raw(batch: RawBatch, at: npt.NDArray[np.int64]) -> list[str]:
    if batch.raw is not None:
        return [_cut(text) for text in batch.raw.take(pa.array(at)).to_pylist()]
    return [_capped(row) for row in _plain_rows(batch.table.take(pa.array(at)))]


def _plain_rows(table: pa.Table) -> Iterable[dict[str, Any]]:
    columns = [_plain(column) for column in table.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(table.column_names, values, strict=True))


def _plain(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    array = plain(column)
    if pa.types.is_dictionary(array.type):  # a long value may be that of every row: shorten it once
        codes, values = distinct(array)
        shortened = [*_plain(values), None]  # code -1 finds the last one
        return [shortened[code] for code in codes.tolist()]
    kind = array.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if is_text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or is_raw_uuid(kind):
        texts = pc.if_else(array.is_valid(), strings(array), pa.scalar(None, pa.string()))
        return list(pc.utf8_slice_codeunits(texts, 0, MAX_RAW_CHARS).to_pylist())
    if pa.types.is_temporal(kind):
        array = time_zones.as_text(array)  # Python's times end in the year 9999
    return list(array.to_pylist())


def _capped(row: dict[str, Any]) -> str:
    text = _as_json(row)
    if len(text) <= MAX_RAW_CHARS:
        return text
    longest = max(8, MAX_RAW_CHARS // (2 * len(row)))  # shorten only long values
    shortened = {
        key: f"{value[:longest]}..." if isinstance(value, str) and len(value) > longest else value
        for key, value in row.items()
    }
    return _cut(_as_json(shortened))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_RAW_CHARS else text[: MAX_RAW_CHARS - 3] + "..."
