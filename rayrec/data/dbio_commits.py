"""Files that a Spark job of Databricks left without a commit, or replaced: they are not data.

A job writes `_started_<id>` into a folder, then files named `part-…-tid-<id>-…`, then `_committed_<id>`, JSON with the
names that it added and removed. A file without these marks is data.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from rayrec.errors import DataError
from rayrec.storage import FileInfo, Storage

_MARK = re.compile(r"^_(started|committed)_(\d+)$")
_WRITER = re.compile(r"-tid-(\d+)-")
_PARALLEL_READS = 16


def uncommitted(storage: Storage, listed: Iterable[FileInfo]) -> frozenset[str]:
    """Paths of the files among `listed` (all files of their folders) that are not data any more, or not yet."""
    marks: dict[tuple[str, str], set[str]] = defaultdict(set)  # (folder, started or committed) -> ids
    written: list[tuple[str, str, str]] = []  # folder, id, path
    for file in listed:
        folder, _, name = file.path.rpartition("/")
        if found := _MARK.match(name):
            marks[folder, found[1]].add(found[2])
        elif by := _WRITER.search(name):
            written.append((folder, by[1], file.path))
    open_ids = {(folder, id) for (folder, kind), ids in marks.items() if kind == "started" for id in ids}
    done = {(folder, id) for (folder, kind), ids in marks.items() if kind == "committed" for id in ids}
    gone = {path for folder, id, path in written if (folder, id) in open_ids - done}
    folders = {folder for folder, _, _ in written}
    with ThreadPoolExecutor(_PARALLEL_READS) as readers:
        removed = readers.map(
            lambda mark: _removed(storage, *mark), sorted(each for each in done if each[0] in folders)
        )
        return frozenset(gone.union(*removed))


def _removed(storage: Storage, folder: str, id: str) -> set[str]:
    path = str(PurePosixPath(folder, f"_committed_{id}"))
    try:
        return {str(PurePosixPath(folder, str(name))) for name in json.loads(storage.read(path)).get("removed") or ()}
    except (ValueError, AttributeError, TypeError):
        raise DataError(
            "this mark of a commit cannot be read, so it is not known which files beside it are data",
            where=storage.url(path),
            hint="delete it if all of them are",
        ) from None
