"""What a fit leaves behind: named arrays and their meta data under `models/<kind>/<fingerprint>/`.

Written whole or not at all: the arrays first, under a name of this attempt, then `meta.json` by a conditional create.
An artefact exists when its meta.json does. Arrays are safetensors: loading one runs no code.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from rayrec.errors import DataError
from rayrec.storage import Storage

FOLDER = "models"


@dataclass(frozen=True)
class Artefact:
    kind: str
    fingerprint: str
    arrays: dict[str, npt.NDArray[Any]]
    meta: dict[str, Any]


def exists(storage: Storage, kind: str, fingerprint: str) -> bool:
    return storage.exists(_meta_path(kind, fingerprint))


def save(
    storage: Storage, kind: str, fingerprint: str, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]
) -> bool:
    """False, leaving nothing behind, if another run saved the same artefact first. `meta` is plain JSON content."""
    data = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    name = f"arrays-{uuid.uuid4().hex}.safetensors"
    path = f"{FOLDER}/{kind}/{fingerprint}/{name}"
    storage.write(path, data)
    record = {"arrays": name, "sha256": hashlib.sha256(data).hexdigest(), "meta": dict(meta)}
    text = json.dumps(record, indent=1, sort_keys=True).encode()
    meta_path = _meta_path(kind, fingerprint)
    # A store may retry its own successful create and answer False; then the record that lies there is ours.
    won = storage.create(meta_path, text) or storage.read(meta_path) == text
    if not won:
        storage.delete(path)
    return won


def load(storage: Storage, kind: str, fingerprint: str) -> Artefact:
    """Raises MissingFileError where there is none, DataError where its files do not fit together."""
    meta_path = _meta_path(kind, fingerprint)
    do = "delete the artefact's folder; the next run fits again"
    try:
        record = json.loads(storage.read(meta_path))
        name, sha256, meta = record["arrays"], record["sha256"], record["meta"]
    except (ValueError, KeyError, TypeError):
        raise DataError("the artefact's meta.json cannot be read", where=storage.url(meta_path), do=do) from None
    path = f"{FOLDER}/{kind}/{fingerprint}/{name}"
    data = storage.read(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError("the artefact's arrays are not the ones that were saved", where=storage.url(path), do=do)
    try:
        return Artefact(kind, fingerprint, safetensors.numpy.load(data), meta)
    except SafetensorError as error:
        raise DataError(f"the artefact's arrays cannot be read: {error}", where=storage.url(path), do=do) from None


def _meta_path(kind: str, fingerprint: str) -> str:
    return f"{FOLDER}/{kind}/{fingerprint}/meta.json"
