"""A shuffle through storage: each input split writes one file, and each shard reads its part of every file.

    part of round 0, shard 0 | part of round 0, shard 1 | ... | item counts | places | index (JSON) | its length | magic

The *places* are the start and the length of each part, int64 [rounds, shards, 2]. A process keeps those of all splits
while they are small; of many splits × shards it reads the entry of its shard alone, so that nothing grows with both.

Each part is an Arrow IPC stream with its own dictionaries, so a shard needs one range read per part; in Arrow's file
format a reader needs the dictionaries of all parts. A *round* is what a split holds in memory at once: long splits have
several, so memory is bounded for input files of any size.

A file is written atomically and its content depends on its split alone, so a killed task is simply run again.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
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
from rayrec.storage.concurrent_reads import read_in_order
from rayrec.storage.tables import IPC_OPTIONS

_MAGIC = b"RRX2"
_TRAILER = 8 + len(_MAGIC)  # bytes: length of the index, magic
_KNOWN = 64 << 20  # bytes of places that a process keeps
_HEAD, _ENTRY = 500, 16  # bytes: of a file whose places are not kept, about; of an entry
_TAIL = 64 << 10  # bytes of the first read of the index, usually enough


class ShuffleWriter:
    """Writes one shuffle file to a binary `file`."""

    def __init__(self, file: BinaryIO, shards: int) -> None:
        self._file, self._shards = file, shards
        self._at = 0
        self._rounds: list[list[tuple[int, int]]] = []  # start and length of each shard's part

    def write_round(self, tables: Sequence[pa.Table]) -> None:
        """Write INTERACTION tables in row order; each shard's part keeps that order."""
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        if table.num_rows:
            self._rounds.append([self._write(part) for part in _parts(table, self._shards)])

    def finish(self, item_counts: pa.Table | None, statistics: Mapping[str, Any]) -> None:
        counts = None if item_counts is None else self._write(item_counts)
        places = np.array(self._rounds, "<i8").reshape(len(self._rounds), self._shards, 2).tobytes()
        shape = {"start": self._at, "rounds": len(self._rounds), "shards": self._shards}
        index = json.dumps({"places": shape, "item_counts": counts, "statistics": statistics}).encode()
        self._file.write(places + index + len(index).to_bytes(8, "little") + _MAGIC)

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
    statistics: dict[str, Any] = _index(storage, path)[0]["statistics"]
    return statistics


def read_item_counts(storage: Storage, path: str) -> pa.Table:
    """ITEM_COUNTS of the split."""
    place = _index(storage, path)[0]["item_counts"]
    return _read(storage, path, *place) if place and place[1] else ITEM_COUNTS.empty_table()


def read_shard_interactions(storage: Storage, paths: Sequence[str], shard: int) -> Iterator[pa.Table]:
    """INTERACTION tables of one shard from the files at `paths`, in order."""

    def parts(path: str) -> list[pa.Table]:
        places = _places(storage, path, shard, len(paths))
        return [_read(storage, path, start, length) for start, length in places if length]

    for tables in read_in_order(parts, paths):
        yield from tables


def count_erased_users(storage: Storage, paths: Iterable[str], shard: int) -> int:
    """Number of erased users of one shard with rows in the splits' files."""
    tokens = read_in_order(lambda path: read_statistics(storage, path)["erased_users"], paths)
    return len({token for users in tokens for token, of in users.items() if of == shard})


@dataclass(frozen=True)
class _Places:
    """The places of one file, or where they are. A file never changes."""

    start: int
    rounds: int
    shards: int
    read: npt.NDArray[np.int64] | None = None  # [rounds, shards, 2], if they were small

    @property
    def size(self) -> int:
        return _ENTRY * self.rounds * self.shards

    @property
    def held(self) -> int:
        """Bytes that a process holds of it."""
        return _HEAD + (0 if self.read is None else self.size)


_changing = Lock()
_known: OrderedDict[tuple[str, str], _Places] = OrderedDict()  # by root and path, the last used at the end


def _places(storage: Storage, path: str, shard: int, files: int) -> list[list[int]]:
    """Start and length of the shard's part in each round; `files`: how many files the process is going to ask."""
    key = storage.root, path
    with _changing:
        found = _known.pop(key, None)
    if found is None:
        found = _read_places(storage, path, files)
    with _changing:
        _known[key] = found
        while len(_known) > 1 and sum(one.held for one in _known.values()) > _KNOWN:
            _known.popitem(last=False)
    if found.read is not None:
        whole: list[list[int]] = found.read[:, shard].tolist()
        return whole
    starts = (found.start + _ENTRY * (round_ * found.shards + shard) for round_ in range(found.rounds))
    return [np.frombuffer(storage.read_range(path, start, _ENTRY), "<i8").tolist() for start in starts]


def _read_places(storage: Storage, path: str, files: int) -> _Places:
    index, tail, tail_start = _index(storage, path)
    places = _Places(**index["places"])
    if places.size * files > _KNOWN:
        return places
    if places.start >= tail_start:
        data = tail[places.start - tail_start :][: places.size]
    else:
        data = storage.read_range(path, places.start, places.size)
    return replace(places, read=np.frombuffer(data, "<i8").reshape(places.rounds, places.shards, 2))


def _index(storage: Storage, path: str) -> tuple[dict[str, Any], bytes, int]:
    """The index; and the end of the file that was read for it, with its start."""
    size = storage.info(path).size
    start = max(0, size - _TAIL)
    tail = storage.read_range(path, start, size - start)
    length = int.from_bytes(tail[-_TRAILER : -len(_MAGIC)], "little")
    if tail[-len(_MAGIC) :] != _MAGIC or length + _TRAILER > size:
        raise DataError("this is not a shuffle file", where=storage.url(path), hint="delete it, and run the job again")
    if length + _TRAILER > len(tail):
        start = size - _TRAILER - length
        tail = storage.read_range(path, start, length + _TRAILER)
    index: dict[str, Any] = json.loads(tail[-_TRAILER - length : -_TRAILER])
    return index, tail, start


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
