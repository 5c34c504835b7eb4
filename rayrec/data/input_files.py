"""Input files: list them, select those of the window, and group them into splits."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import PurePosixPath
from zoneinfo import ZoneInfo

import pyarrow as pa

from rayrec.config import Data, FileSource, regex_patterns
from rayrec.config.data_section import LEAST_SHARDS, InteractionSource
from rayrec.data.dbio_commits import uncommitted
from rayrec.data.lake_tables import live_files, tables_of
from rayrec.data.parquet_reader import row_group_sizes
from rayrec.data.source_paths import SourcePath
from rayrec.errors import ConfigError, DataError
from rayrec.storage import FileInfo, Storage

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
_FORMATS = {
    **dict.fromkeys((".csv", ".tsv", ".txt", ".dat"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
}
_MIN_FILE_COST = 64 << 10  # bytes; opening a file costs as much as reading them
_SHARD_BYTES = 4_000 * 50 * 20  # of parquet, for a shard of `data.shards: auto`
_FOOTER_READERS = 16  # threads; on a remote store a footer is a round trip


@dataclass(frozen=True)
class InputFile:
    """One input file; `index` is its position by path among all input files: the `source_file` of its rows."""

    index: int
    path: str  # relative to data.root
    size: int  # bytes
    version: str
    format: str  # csv, parquet or jsonl


@dataclass(frozen=True)
class WindowFiles:
    """The interaction files of a run's window."""

    files: tuple[InputFile, ...]  # sorted by path
    skipped: int  # number of files with days outside the window in their paths
    several_days: str = ""  # a path with more than one day; "": there is none


@dataclass(frozen=True)
class FileFragment:
    """A file, or consecutive row groups of a parquet file."""

    file: InputFile
    row_groups: tuple[int, ...] | None = None  # None: all
    first_row: int = 1  # 1-based, within the file


@dataclass(frozen=True)
class Split:
    """The input of one ingest task: fragments in (file, row) order."""

    index: int
    fragments: tuple[FileFragment, ...]


def auto_shards(files: Sequence[InputFile]) -> int:
    """About 4,000 users each, if a user has 50 interactions of 20 bytes in parquet and 60 in text; a compressed text
    file counts as parquet."""
    text = sum(file.size for file in files if file.format != "parquet" and not file.path.endswith(tuple(COMPRESSIONS)))
    size = sum(file.size for file in files) - text + text / 3
    return min(max(LEAST_SHARDS, math.ceil(size / _SHARD_BYTES)), 100_000)


def list_window_files(data: Data, day: date) -> WindowFiles:
    """The interaction files that can hold rows of [day - window_days, day), sorted by path.

    Files are skipped if all days in their path (`day_pattern`) are outside the window; files without a day are read.
    Raises DataError, with the days in the paths, if none is left.
    """
    files = list_files(data.root, data.interactions, "data.interactions")
    days = _days_of(files, data.interactions.day_pattern)
    first, last = _days_of_window(data, day)
    inside = [
        file
        for file, own in zip(files, days, strict=True)
        if not own or any(first <= its_day <= last for its_day in own)
    ]
    if not inside:
        known = sorted((its_day, file.path) for file, own in zip(files, days, strict=True) for its_day in own)
        raise DataError(
            f"no interactions in the {data.window_days} days before {day}: by their paths, "
            f"the files hold days from {known[0][0]} to {known[-1][0]}",
            where=Storage(data.root).url(known[-1][1]),
            hint="choose a --date after those days, or raise data.window_days; if the day in the path is another one "
            "(of an export, say), set data.interactions.day_pattern to a pattern for the right one",
        )
    several = next((file.path for file, own in zip(files, days, strict=True) if len(set(own)) > 1), "")
    numbered = tuple(replace(file, index=i) for i, file in enumerate(inside))
    return WindowFiles(numbered, len(files) - len(inside), several)


def item_files(data: Data) -> tuple[InputFile, ...]:
    """The catalogue's files, sorted by path; () if the catalogue is made from interactions."""
    return () if data.items.from_interactions else list_files(data.root, data.items, "data.items")


def instruction_files(data: Data) -> tuple[InputFile, ...]:
    """The files of the instruction table, sorted by path; () if there is none."""
    return () if data.instructions is None else list_files(data.root, data.instructions, "data.instructions")


def list_files(root: str, source: FileSource, section: str, root_key: str = "data.root") -> tuple[InputFile, ...]:
    """All files of a source, sorted by path. Raises DataError with the nearest names if there are none.

    `section` and `root_key`: the config keys for error messages.
    """
    if not root:
        raise ConfigError(f"{root_key} is not set", hint=f"give the folder or URL of the data: --set {root_key}=...")
    storage = Storage(root)
    found, others = _data_files(storage, SourcePath(source.path))
    if not found:
        raise _none_found(storage, source.path, others, section, root_key)
    return tuple(
        InputFile(i, file.path, file.size, file.version, _format_of(storage, file, source, section))
        for i, file in enumerate(found)
    )


def files_before(files: Sequence[InputFile], day: date) -> tuple[InputFile, ...]:
    """Those without a day of `day` or later in their paths."""
    pattern = InteractionSource.model_fields["day_pattern"].default
    days = _days_of(files, pattern)
    return tuple(file for file, own in zip(files, days, strict=True) if not own or min(own) < day)


def make_splits(storage: Storage, files: Sequence[InputFile], split_bytes: int) -> tuple[Split, ...]:
    """Splits of about `split_bytes`: large parquet files by row groups, small files together, text files whole.

    Rows are in (file, row) order over all splits.
    """
    with ThreadPoolExecutor(_FOOTER_READERS) as readers:
        of_files = readers.map(lambda file: list(_fragments(storage, file, split_bytes)), files)
        sized = [fragment for fragments in of_files for fragment in fragments]
    splits: list[Split] = []
    pending: list[FileFragment] = []
    filled = 0
    for size, fragment in sized:
        cost = max(size, _MIN_FILE_COST)
        if pending and filled + cost > split_bytes:
            splits.append(Split(len(splits), tuple(pending)))
            pending, filled = [], 0
        pending.append(fragment)
        filled += cost
    return (*splits, Split(len(splits), tuple(pending))) if pending else tuple(splits)


def _fragments(storage: Storage, file: InputFile, split_bytes: int) -> Iterator[tuple[int, FileFragment]]:
    if file.format != "parquet" or file.size <= split_bytes:
        yield file.size, FileFragment(file)
        return
    groups: list[int] = []
    size, first_row, next_row = 0, 1, 1
    for group, (group_bytes, group_rows) in enumerate(row_group_sizes(storage, file.path)):
        if groups and size + group_bytes > split_bytes:
            yield size, FileFragment(file, tuple(groups), first_row)
            groups, size, first_row = [], 0, next_row
        groups.append(group)
        size += group_bytes
        next_row += group_rows
    if groups:
        yield size, FileFragment(file, tuple(groups), first_row)


def _data_files(storage: Storage, source: SourcePath) -> tuple[list[FileInfo], list[str]]:
    """The files that a path stands for, and the paths of those that are not data; both sorted."""
    listed = storage.list(source.folder, hidden=True)
    matching = [file for file in listed if source.matches(file.path)]
    gone = uncommitted(storage, listed)
    named = [file for file in matching if not source.is_leftover(file.path) and file.path not in gone]
    data = live_files(storage, source, named, tables_of(storage, source, listed))
    kept = {file.path for file in data}
    return data, [file.path for file in matching if file.path not in kept]


def _format_of(storage: Storage, file: FileInfo, source: FileSource, section: str) -> str:
    format = format_of_name(file.path) if source.format == "auto" else source.format
    if format is None:
        raise DataError(
            "the file's suffix names no known format",
            where=storage.url(file.path),
            hint=f"set {section}.format, or narrow {section}.path with a glob such as *.csv",
        )
    return format


def format_of_name(path: str) -> str | None:
    """The format that a file's suffix names, compressed or not."""
    suffixes = PurePosixPath(path.lower()).suffixes
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def _days_of(files: Sequence[InputFile], pattern: str) -> list[list[date]]:
    """The days in each file's path: all of them by the default pattern, because a path may also have the day of an
    export; one at most by a pattern of the user's."""
    paths = [file.path for file in files]
    if pattern == InteractionSource.model_fields["day_pattern"].default:
        texts = [re.findall(pattern, path, re.ASCII) for path in paths]
    else:
        found = regex_patterns.extract(pa.array(paths, pa.string()), pattern).to_pylist()
        texts = [[] if text is None else [text] for text in found]
    return [[its_day for its_day in map(_day, found) if its_day is not None] for found in texts]


def _days_of_window(data: Data, day: date) -> tuple[date, date]:
    """The first and the last day that may appear in the path of a file with rows of the window.

    Files may be partitioned by UTC day or by day in the time zone of `ts`, which may begin earlier or end later.
    """
    ts = data.interactions.ts
    end = datetime(day.year, day.month, day.day, tzinfo=UTC)
    zones = (UTC, UTC if isinstance(ts, str) or ts.timezone == "UTC" else ZoneInfo(ts.timezone))
    first, last = end - timedelta(days=data.window_days), end - timedelta(microseconds=1)
    return min(first.astimezone(zone).date() for zone in zones), max(last.astimezone(zone).date() for zone in zones)


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        return None  # not a day: read the file and select rows by time


def _none_found(storage: Storage, path: str, others: Sequence[str], section: str, root_key: str) -> DataError:
    if others:
        return DataError(
            f"{section}.path {path!r} holds no data, only {len(others):,} temporary, hidden or removed files, "
            f"such as {others[0]}",
            where=storage.url(),
            hint=f"correct {section}.path, or wait until the files are written",
        )
    there = [file for file in storage.list() if not SourcePath("").is_leftover(file.path)]
    if not there:
        return DataError(
            f"there are no files under {root_key}", where=storage.url(), hint=f"check --set {root_key}=..."
        )
    names = sorted({str(parent) for file in there for parent in PurePosixPath(file.path).parents if parent.name})
    names += [file.path for file in there]
    near = difflib.get_close_matches(path, names, n=3, cutoff=0.3) or names[:3]
    return DataError(
        f"no file matches {section}.path {path!r}; there is, for example, {', '.join(near)}",
        where=storage.url(),
        hint=f"correct {section}.path or {root_key}",
    )
