"""safetensors files written array by array, and read by mapping them into memory.

Processes that map one file share its pages: a node holds one copy of the arrays, whatever the number of processes, and
reading holds no second one. Mapped arrays are read-only.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_CHUNK = 16 << 20
_ALIGNED = 64  # bytes: the first array starts at a multiple, so all elements are aligned
_KINDS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NAMES = {np.dtype(kind): name for name, kind in _KINDS.items()}

Arrays = Mapping[str, npt.NDArray[Any]]


def write(file: BinaryIO, arrays: Arrays) -> str:
    """Write a safetensors file; the sha256 of its bytes. No array is copied unless its memory is not contiguous."""
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # so that all elements are aligned
    header, end = {}, 0
    for name in order:
        array = arrays[name]
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    seen = hashlib.sha256()
    for part in (len(text).to_bytes(8, "little"), text, *(_bytes(arrays[name]) for name in order)):
        file.write(part)
        seen.update(part)
    return seen.hexdigest()


def read(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Map a safetensors file. Raises ValueError, KeyError or TypeError if it is none."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError("no header")
        header = json.loads(file.read(length))
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            kind, start, shape = np.dtype(_KINDS[entry["dtype"]]), 8 + length + entry["data_offsets"][0], entry["shape"]
            found[name] = np.frombuffer(pages, kind, int(np.prod(shape, dtype=np.int64)), start).reshape(shape)
    return found


def sha256_of(path: Path) -> str:
    """The digest of a file, read in pieces."""
    seen = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            seen.update(piece)
    return seen.hexdigest()


def _bytes(array: npt.NDArray[Any]) -> Any:
    """The array's memory, as a buffer."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
