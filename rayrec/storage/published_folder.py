"""A folder of model files in the storage, published as a whole: files of one attempt, and a record that names them.

    <path>/rayrec.json       marks the folder complete; lists every file with size and sha256, and a card
    <path>/<attempt>/...     the files of the attempt that won
    <path>/stale.json        why it must not be used

If two runs make the same folder at once, one creates rayrec.json; the other deletes its files and uses the winner's.
Files are copied in blocks: weights may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rayrec.errors import DataError
from rayrec.numerics.hashing import digest
from rayrec.storage import checkpoint_cache, layout
from rayrec.storage.files import Storage

_ALLOWED = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md")
_BLOCK = 8 << 20


def publish(folder: Path, card: Mapping[str, Any], storage: Storage, path: str) -> bool:
    """Upload `folder`, then create `<path>/rayrec.json`. If that exists already, delete the upload and return False."""
    attempt = uuid.uuid4().hex
    files = {}
    for file in sorted(folder.iterdir()):
        with open(file, "rb") as source, storage.writer(layout.llm_file_path(path, attempt, file.name)) as target:
            files[file.name] = {"size": file.stat().st_size, "sha256": _copied(source, target)}
    record = json.dumps({"folder": attempt, "files": files, "card": card}, sort_keys=True).encode()
    # A store may retry its own successful create and answer False; then the record is ours.
    won = storage.create(layout.llm_record_path(path), record) or storage.read(layout.llm_record_path(path)) == record
    if not won:
        for name in files:
            storage.delete(layout.llm_file_path(path, attempt, name))
    return won


def exists(storage: Storage, path: str) -> bool:
    return storage.exists(layout.llm_record_path(path))


def mark_stale(storage: Storage, path: str, why: Mapping[str, Any]) -> None:
    """Make `fetch` refuse the folder. Idempotent."""
    storage.create(layout.llm_stale_path(path), (json.dumps(dict(why), indent=1, sort_keys=True) + "\n").encode())


def folders(storage: Storage, below: str, *, stale: bool) -> list[str]:
    """Paths of the stale, or of the usable, published folders below a folder."""
    files = {info.path for info in storage.list(below)}
    record = layout.llm_record_path("")
    whole = sorted(path.removesuffix(record) for path in files if path.endswith(record))
    return [path for path in whole if (layout.llm_stale_path(path) in files) == stale]


def read_record(storage: Storage, path: str) -> dict[str, Any]:
    """The record: `folder`, `files` and `card`. Raises MissingFileError if there is none, DataError if it is
    unreadable or names a file that is not loaded here."""
    text, where = storage.read(layout.llm_record_path(path)), storage.url(layout.llm_record_path(path))
    try:
        record: dict[str, Any] = json.loads(text)
        names = list(record["files"])
        _ = record["card"], record["folder"]
    except (ValueError, KeyError, TypeError):
        raise unreadable(where) from None
    for name in names:
        if "/" in name or name.startswith(".") or not name.endswith(_ALLOWED):
            raise DataError(
                f"the checkpoint holds a file that is not loaded here: {name!r}",
                where=where,
                hint="delete the checkpoint's folder below models/ and run the job again: it is tuned anew",
            )
    return record


def unreadable(where: str) -> DataError:
    return DataError(
        "the record of the checkpoint cannot be read",
        where=where,
        hint="delete the checkpoint; the next run tunes again",
    )


def fetch(storage: Storage, path: str, cache: Path | None = None) -> Path:
    """The files as a local folder: in place on a local store, else copied once per node into `cache`
    (`checkpoint_cache.default_folder()`). Raises DataError for a stale folder and for files that have changed."""
    if storage.exists(layout.llm_stale_path(path)):
        raise DataError(
            "the checkpoint is stale: it was tuned on users who were erased",
            where=storage.url(layout.llm_stale_path(path)),
            hint="run the job again: it tunes another without them",
        )
    record = read_record(storage, path)
    if storage.is_local:
        local = Path(storage.url(path)) / str(record["folder"])
        for name, file in record["files"].items():
            if not (local / name).is_file() or (local / name).stat().st_size != file["size"]:
                raise _broken(local / name)
        return local

    def copy(folder: Path) -> None:
        for name, file in record["files"].items():
            source_path = layout.llm_file_path(path, record["folder"], name)
            with storage.open(source_path) as source, open(folder / name, "wb") as target:
                if _copied(source, target) != file["sha256"]:
                    raise _broken(storage.url(source_path))

    root = cache or checkpoint_cache.default_folder()
    return checkpoint_cache.cached_copy(digest(record["files"]), root, copy)


def _copied(source: BinaryIO, target: BinaryIO) -> str:
    """Copy block by block; the sha256 of the content."""
    total = hashlib.sha256()
    while block := source.read(_BLOCK):
        total.update(block)
        target.write(block)
    return total.hexdigest()


def _broken(path: object) -> DataError:
    return DataError(
        "the file is not the one that was saved",
        where=str(path),
        hint="delete the checkpoint; the next run tunes again",
    )
