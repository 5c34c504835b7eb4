"""A shuffle through storage: each input split writes one file, and each shard reads its part of every file.

    part of (round 0, shard 0) | part of (round 0, shard 1) | ... | item counts | index (JSON) | its length | magic

Each part is an Arrow IPC stream with its own dictionaries, so a shard needs one range read per part; in Arrow's file
format a reader needs the dictionaries of all parts. A *round* is what a split holds in memory at once: long splits have
several, so memory is bounded for input files of any size.

A file is written atomically and its content depends on its split alone, so a killed task is simply run again.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.data.catalogue import ITEM_COUNTS
from rayrec.data.schemas import INTERACTION
from rayrec.data.text_columns import compact
from rayrec.errors import DataError
from rayrec.numerics.hashing import shard_of
from rayrec.storage import Storage
from rayrec.storage.tables import IPC_OPTIONS

_MAGIC = b"RRX1"
_TRAILER = 8 + len(_MAGIC)  # bytes: length of the index, magic
_CACHED_BYTES = 64 << 20  # of indexes, in a process
_TAIL = 64 << 10  # bytes of the first read of the index, usually enough


class ShuffleWriter:
    """Writes one shuffle file to a binary `file`."""

    def __init__(self, file: BinaryIO, shards: int) -> None:
        self._file, self._shards = file, shards
        self._at = 0
        self._rounds: list[list[tuple[int, int]]] = []

    def write_round(self, tables: Sequence[pa.Table]) -> None:
        """Write INTERACTION tables in row order; each shard's part keeps that order."""
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        if table.num_rows:
            self._rounds.append([self._write(part) for part in _parts(table, self._shards)])

    def finish(self, item_counts: pa.Table | None, statistics: Mapping[str, Any]) -> None:
        counts = None if item_counts is None else self._write(item_counts)
        index = json.dumps({"rounds": self._rounds, "item_counts": counts, "statistics": statistics}).encode()
        self._file.write(index + len(index).to_bytes(8, "little") + _MAGIC)

    def _write(self, table: pa.Table) -> tuple[int, int]:
        if not table.num_rows:
            return self._at, 0
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=IPC_OPTIONS) as writer:
            writer.write_table(table)
        data = sink.getvalue()
        self._file.write(data)
        place = self._at, data.size
        self._at += data.size
        return place


def read_statistics(storage: Storage, path: str) -> dict[str, Any]:
    """The statistics passed to `finish`. Raises MissingFileError, and DataError for another kind of file."""
    statistics: dict[str, Any] = _index(storage, path)["statistics"]
    return statistics


def read_item_counts(storage: Storage, path: str) -> pa.Table:
    """ITEM_COUNTS of the split."""
    place = _index(storage, path)["item_counts"]
    return _read(storage, path, *place) if place and place[1] else ITEM_COUNTS.empty_table()


def read_shard_interactions(storage: Storage, paths: Iterable[str], shard: int) -> Iterator[pa.Table]:
    """INTERACTION tables of one shard from the files at `paths`, in order."""
    for path in paths:
        for places in _places(storage, path):
            start, length = places[shard].tolist()
            if length:
                yield _read(storage, path, start, length)


def count_erased_users(storage: Storage, paths: Iterable[str], shard: int) -> int:
    """Number of erased users of one shard with rows in the splits' files."""
    tokens = (read_statistics(storage, path)["erased_users"] for path in paths)
    return len({token for users in tokens for token, of in users.items() if of == shard})


_cached: OrderedDict[tuple[str, str], npt.NDArray[np.int64]] = (
    OrderedDict()
)  # by root and path, the last used at the end


def _places(storage: Storage, path: str) -> npt.NDArray[np.int64]:
    """Start and length of each part, [rounds, shards, 2]. A process keeps the last ones that it read: its next shards
    then need one request per part, not one more for the index. A file never changes."""
    key = storage.root, path
    found = _cached.pop(key, None)
    if found is None:
        rounds = _index(storage, path)["rounds"]
        found = np.array(rounds, np.int64)
    _cached[key] = found
    while len(_cached) > 1 and sum(places.nbytes for places in _cached.values()) > _CACHED_BYTES:
        _cached.popitem(last=False)
    return found


def _index(storage: Storage, path: str) -> dict[str, Any]:
    size = storage.info(path).size
    tail = storage.read_range(path, max(0, size - _TAIL), min(size, _TAIL))
    length = int.from_bytes(tail[-_TRAILER : -len(_MAGIC)], "little")
    if tail[-len(_MAGIC) :] != _MAGIC or length + _TRAILER > size:
        raise DataError("this is not a shuffle file", where=storage.url(path), hint="delete it, and run the job again")
    if length + _TRAILER > len(tail):
        tail = storage.read_range(path, size - _TRAILER - length, length + _TRAILER)
    index: dict[str, Any] = json.loads(tail[-_TRAILER - length : -_TRAILER])
    return index


def _read(storage: Storage, path: str, start: int, length: int) -> pa.Table:
    with pa.ipc.open_stream(storage.read_range(path, start, length)) as reader:
        return reader.read_all()


def _parts(table: pa.Table, shards: int) -> Iterator[pa.Table]:
    """The rows of each shard, in shard order, with compact dictionaries."""
    users, items = table["user_id"].combine_chunks(), table["item_id"].combine_chunks()
    user_codes, names = compact(_codes(users), users.dictionary)
    item_codes = _codes(items)
    shard_of_user = shard_of(names, shards)
    by_shard = np.argsort(shard_of_user, kind="stable")
    names = names.take(pa.array(by_shard))
    place = np.empty(len(names), np.int32)
    place[by_shard] = np.arange(len(names))
    user_bounds = np.searchsorted(shard_of_user[by_shard], np.arange(shards + 1))

    shard_of_row = shard_of_user[user_codes].astype(np.uint16 if shards <= 1 << 16 else np.int32)  # 16 bits sort faster
    order = np.argsort(shard_of_row, kind="stable")
    bounds = np.searchsorted(shard_of_row[order], np.arange(shards + 1))
    others = table.drop_columns(["user_id", "item_id"]).take(pa.array(order))
    for shard in range(shards):
        rows = order[bounds[shard] : bounds[shard + 1]]
        first, last = user_bounds[shard], user_bounds[shard + 1]
        user = pa.DictionaryArray.from_arrays(place[user_codes[rows]] - first, names.slice(first, last - first))
        part_codes, part_items = compact(item_codes[rows], items.dictionary)
        item = pa.DictionaryArray.from_arrays(pa.array(part_codes, mask=part_codes < 0), part_items)
        yield pa.table([user, item, *others.slice(bounds[shard], len(rows)).columns], schema=INTERACTION)


def _codes(column: pa.DictionaryArray) -> npt.NDArray[np.int32]:
    codes: npt.NDArray[np.int32] = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes
