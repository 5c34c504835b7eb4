"""Artifacts: named arrays and metadata of a fitted model, stored by kind and fingerprint.

Saving is atomic: first the arrays, under a name unique to the attempt, then `meta.json` by a conditional create. An
artifact exists when its meta.json does. Arrays are safetensors, so loading runs no code.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from rayrec.errors import DataError
from rayrec.storage import Storage, checkpoint_cache, layout, mapped_arrays

_HINT = "delete the artifact's folder; the next run fits again"
_COPY = "arrays.safetensors"  # in the node's cache


@dataclass(frozen=True)
class Artifact:
    kind: str
    fingerprint: str
    arrays: dict[str, npt.NDArray[Any]]
    meta: dict[str, Any]


def exists(storage: Storage, kind: str, fingerprint: str) -> bool:
    return storage.exists(layout.artifact_meta_path(kind, fingerprint))


def save(
    storage: Storage, kind: str, fingerprint: str, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]
) -> bool:
    """Save an artifact. Returns False, and leaves no file, if another run saved it first. `meta` is JSON content."""
    attempt = uuid.uuid4().hex
    path = layout.artifact_arrays_path(kind, fingerprint, attempt)
    with storage.writer(path) as file:
        digest = mapped_arrays.write(file, arrays)
    record = {"attempt": attempt, "sha256": digest, "meta": dict(meta)}
    text = json.dumps(record, indent=1, sort_keys=True).encode()
    meta_path = layout.artifact_meta_path(kind, fingerprint)
    # A store may retry its own successful create and return False; then the stored record is ours.
    won = storage.create(meta_path, text) or storage.read(meta_path) == text
    if not won:
        storage.delete(path)
    return won


def load(storage: Storage, kind: str, fingerprint: str) -> Artifact:
    """Load an artifact. Raises MissingFileError if there is none, DataError if its files do not match."""
    record = _record(storage, kind, fingerprint)
    path = layout.artifact_arrays_path(kind, fingerprint, record["attempt"])
    data = storage.read(path)
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise DataError("the artifact's arrays are not the ones that were saved", where=storage.url(path), hint=_HINT)
    try:
        return Artifact(kind, fingerprint, safetensors.numpy.load(data), record["meta"])
    except SafetensorError as error:
        raise DataError(f"the artifact's arrays cannot be read: {error}", where=storage.url(path), hint=_HINT) from None


def load_mapped(storage: Storage, kind: str, fingerprint: str, cache: Path | None = None) -> Artifact:
    """Like `load`, with read-only arrays mapped from a file of this node: its processes share one copy in memory.

    A local artifact is mapped where it is, one of a remote store from the node's cache (`cache`, default
    `checkpoint_cache.default_folder()`), where the first process copies it. Raises the errors of `load`.
    """
    record = _record(storage, kind, fingerprint)
    path = layout.artifact_arrays_path(kind, fingerprint, record["attempt"])
    if storage.is_local:
        storage.info(path)  # an error that names a missing file
        mapped = Path(storage.url(path))
        _require_digest(storage, path, mapped, record)
    else:

        def copy(folder: Path) -> None:
            with storage.open(path) as source, open(folder / _COPY, "wb") as target:
                shutil.copyfileobj(source, target, 16 << 20)
            _require_digest(storage, path, folder / _COPY, record)

        root = cache or checkpoint_cache.default_folder()
        mapped = checkpoint_cache.cached_copy(record["sha256"][:16], root, copy) / _COPY
    try:
        return Artifact(kind, fingerprint, mapped_arrays.read(mapped), record["meta"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the artifact's arrays cannot be read: {error}", where=storage.url(path), hint=_HINT) from None


def _require_digest(storage: Storage, path: str, local: Path, record: Mapping[str, Any]) -> None:
    if mapped_arrays.sha256_of(local) != record["sha256"]:
        raise DataError("the artifact's arrays are not the ones that were saved", where=storage.url(path), hint=_HINT)


def load_part(storage: Storage, kind: str, fingerprint: str, prefixes: tuple[str, ...]) -> Artifact:
    """Load only the arrays whose names have one of the prefixes, without checking the file's digest.

    Raises the errors of `load`.
    """
    record = _record(storage, kind, fingerprint)
    path = layout.artifact_arrays_path(kind, fingerprint, record["attempt"])
    try:
        arrays = safetensors.numpy.load(_part_of_file(storage, path, prefixes))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the artifact's arrays cannot be read: {error}", where=storage.url(path), hint=_HINT) from None
    return Artifact(kind, fingerprint, arrays, record["meta"])


def load_meta(storage: Storage, kind: str, fingerprint: str) -> dict[str, Any]:
    """Load the metadata alone. Raises the errors of `load`."""
    meta: dict[str, Any] = _record(storage, kind, fingerprint)["meta"]
    return meta


def _record(storage: Storage, kind: str, fingerprint: str) -> dict[str, Any]:
    """Content of meta.json."""
    path = layout.artifact_meta_path(kind, fingerprint)
    try:
        record = json.loads(storage.read(path))
        return {name: record[name] for name in ("attempt", "sha256", "meta")}
    except (ValueError, KeyError, TypeError):
        raise DataError("the artifact's meta.json cannot be read", where=storage.url(path), hint=_HINT) from None


def _part_of_file(storage: Storage, path: str, prefixes: tuple[str, ...]) -> bytes:
    """A safetensors file with some arrays of another: header length, header, array bytes."""
    length = int.from_bytes(storage.read_range(path, 0, 8), "little")
    if length > mapped_arrays.MAX_HEADER_BYTES:
        raise ValueError("no header")
    header = json.loads(storage.read_range(path, 8, length))
    selected, parts, end = {}, [], 0
    for name, array in header.items():
        if name.startswith(prefixes):
            start, stop = array["data_offsets"]
            parts.append(storage.read_range(path, 8 + length + start, stop - start) if stop > start else b"")
            selected[name] = {**array, "data_offsets": [end, end + stop - start]}
            end += stop - start
    text = json.dumps(selected).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
