"""The content of a file as bytes that can be searched: compressed pages, dictionaries, escapes and archives decoded.

A text may stand in a parquet file only in a compressed page or in the unused value of a dictionary, in JSON behind an
escape, in an .npy file as UTF-32. So every file is searched as it is and once more for each layer of its format, which
is found by content, not by name: what a killed writer left has another name.
"""

from __future__ import annotations

import bz2
import gzip
import html
import json
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_DEEPEST = 4  # layers of compression
_MAX_BYTES = 8 << 30  # of one decompressed layer
_PIECE = 64 << 20  # bytes of a decompressed layer that are held at once
_OVERLAP = 1 << 12  # bytes that two pieces share, more than any id has
_ZSTD, _LZ4, _XZ = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\xfd7zXZ\x00"
_CONTINUATION = b"\xff\xff\xff\xff"  # begins every message of an Arrow IPC stream


class UndecodedError(Exception):
    """A layer of the file cannot be decoded; what was found before it has been yielded."""


def decoded(data: bytes, depth: int = 0) -> Iterator[pa.LargeBinaryArray]:
    """Arrays of byte strings that together are all content of the file: as it is, then each layer decoded.

    Raises UndecodedError if a layer is damaged or too deep.
    """
    yield _binary([data])
    try:
        yield from _layers(data, depth)
    except (pa.ArrowException, OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise UndecodedError(f"{type(error).__name__}") from error
    except (ValueError, KeyError, TypeError, RecursionError, NotImplementedError) as error:
        raise UndecodedError(f"{type(error).__name__}") from error


def _layers(data: bytes, depth: int) -> Iterator[pa.LargeBinaryArray]:
    if data.startswith(b"PAR1"):
        yield from _parquet(data)
    elif data.startswith(b"ARROW1"):
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            for number in range(reader.num_record_batches):
                yield from _batch(reader.get_batch(number))
    elif data.endswith(b"RRX1") or data.startswith(_CONTINUATION):
        yield from _streams(data)
    elif data.startswith((b"\x1f\x8b", b"BZh", _XZ, _ZSTD, _LZ4)):
        if depth >= _DEEPEST:
            raise ValueError("too many layers of compression")
        for piece in _decompressed(data):
            yield from decoded(piece, depth + 1)
    elif data.startswith(b"PK\x03\x04"):  # .npz, a packed working directory
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for name in archive.namelist():
                yield _binary([name.encode()])
                yield from decoded(archive.read(name), depth + 1)
    else:
        yield from _text(data)


def _parquet(data: bytes) -> Iterator[pa.LargeBinaryArray]:
    schema = pq.read_metadata(pa.BufferReader(data)).schema
    texts = [schema.column(n).path for n in range(len(schema.names)) if schema.column(n).physical_type == "BYTE_ARRAY"]
    # As dictionaries: a page's dictionary may hold values that no row refers to.
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    for number in range(file.num_row_groups):
        for batch in file.read_row_group(number).to_batches():
            yield from _batch(batch)


def _streams(data: bytes) -> Iterator[pa.LargeBinaryArray]:
    """IPC streams one after another, as in a shuffle file."""
    at = data.find(_CONTINUATION)
    while 0 <= at < len(data):
        source = pa.BufferReader(memoryview(data)[at:])
        try:
            with pa.ipc.open_stream(source) as reader:
                for batch in reader:
                    yield from _batch(batch)
            end = at + source.tell()
        except pa.ArrowInvalid:  # four such bytes that begin no stream
            end = at + 1
        at = data.find(_CONTINUATION, max(end, at + 1))


def _decompressed(data: bytes) -> Iterator[bytes]:
    """Pieces of the decompressed content, each with the end of the one before."""
    source: Any
    if data.startswith(b"\x1f\x8b"):
        source = gzip.GzipFile(fileobj=BytesIO(data))
    elif data.startswith(b"BZh"):
        source = bz2.BZ2File(BytesIO(data))
    elif data.startswith(_XZ):
        source = lzma.LZMAFile(BytesIO(data))  # noqa: SIM115  # of memory
    else:
        source = pa.CompressedInputStream(pa.BufferReader(data), "zstd" if data.startswith(_ZSTD) else "lz4")
    total, end = 0, b""
    while piece := source.read(_PIECE):
        total += len(piece)
        if total > _MAX_BYTES:
            raise ValueError("too many bytes")
        yield end + piece
        end = piece[-_OVERLAP:]


def _text(data: bytes) -> Iterator[pa.LargeBinaryArray]:
    """JSON, JSON lines, HTML and safetensors: without escapes."""
    header = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and 0 < header <= len(data) - 8:  # safetensors
        yield _strings(json.loads(data[8 : 8 + header]))
    text = data.decode(errors="replace")
    start = text.lstrip()[:1]
    if start in ("{", "[", '"') and "\\" in text:
        try:
            yield _strings(json.loads(text))
        except ValueError:
            yield _strings([_json_or_text(line) for line in text.splitlines()])
    elif start == "<" and "&" in text:
        yield _binary([html.unescape(text).encode()])


def _json_or_text(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line


def _strings(content: Any) -> pa.LargeBinaryArray:
    """All strings in JSON content, keys among them; strings that are JSON themselves are opened too."""
    found, todo = [], [content]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, str):
            found.append(value.encode(errors="replace"))
            if value[:1] in ("{", "[") and "\\" in value and isinstance(inner := _json_or_text(value), dict | list):
                todo.append(inner)
    return _binary(found)


def _batch(batch: pa.RecordBatch) -> Iterator[pa.LargeBinaryArray]:
    for column in batch.columns:
        yield from _leaves(column)


def _leaves(array: pa.Array) -> Iterator[pa.LargeBinaryArray]:
    """The byte strings of an array, nested ones and unused dictionary values too."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        yield from _leaves(array.storage)
    elif pa.types.is_dictionary(kind):
        yield from _leaves(array.dictionary)
    elif pa.types.is_struct(kind):
        for n in range(kind.num_fields):
            yield from _leaves(array.field(n))
    elif pa.types.is_map(kind):
        yield from _leaves(array.keys)
        yield from _leaves(array.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(array.values)
    elif pa.types.is_fixed_size_binary(kind):
        yield array.cast(pa.binary()).cast(pa.large_binary())
    elif any(
        test(kind)
        for test in (
            pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary,
            pa.types.is_string_view, pa.types.is_binary_view,
        )
    ):  # fmt: skip
        leaf = array.cast(pa.large_binary())
        yield leaf
        # A cell may hold JSON with escapes: the raw rows of a quarantine.
        escaped = [text for text in leaf.to_pylist() if text and text[:1] in b'{["' and b"\\" in text]
        if escaped:
            yield _strings([_json_or_text(text.decode(errors="replace")) for text in escaped])


def _binary(texts: list[bytes]) -> pa.LargeBinaryArray:
    return pa.array(texts, pa.large_binary())
