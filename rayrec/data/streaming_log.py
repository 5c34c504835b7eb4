"""The files that a Spark streaming sink committed, from its log `_spark_metadata`.

Files of batches that failed stay in the folder and are not in the log. Format: `FileStreamSinkLog` of Apache Spark; a
batch is a file of JSON lines below the line `v1`, and every few batches a file `N.compact` holds all batches up to N.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from urllib.parse import unquote

from rayrec.errors import DataError
from rayrec.storage import Storage

_FOLDER = "_spark_metadata"
_COMPACT = ".compact"


def committed_names(sink: Storage) -> frozenset[str]:
    """Names of the committed files, without folders: Spark names each with a UUID, and the folder may have moved."""
    names = [PurePosixPath(file.path).name for file in sink.list(_FOLDER)]
    batches = {int(name.removesuffix(_COMPACT)): name for name in sorted(names) if _is_batch(name)}
    start = max((batch for batch, name in batches.items() if name.endswith(_COMPACT)), default=0)
    present: set[str] = set()
    for batch in sorted(number for number in batches if number >= start):
        _apply(sink, f"{_FOLDER}/{batches[batch]}", present)
    return frozenset(present)


def _is_batch(name: str) -> bool:
    number = name.removesuffix(_COMPACT)
    return number.isascii() and number.isdigit()


def _apply(sink: Storage, path: str, present: set[str]) -> None:
    lines = sink.read(path).decode(errors="replace").splitlines()
    try:
        for entry in map(json.loads, lines[1:]):
            name = unquote(str(entry["path"])).rpartition("/")[2]
            (present.discard if entry.get("action") == "delete" else present.add)(name)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            "the log of this Spark streaming sink cannot be read",
            where=sink.url(path),
            hint="export its rows as plain files and name that folder, or delete the log if every file is data",
        ) from None
