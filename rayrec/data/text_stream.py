"""The text of a file: decompressed, decoded and bounded, as blocks of UTF-8 bytes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import pyarrow as pa

from rayrec.data.input_files import COMPRESSIONS
from rayrec.data.raw_rows import MAX_BATCH_ROWS, MAX_ROW_BYTES
from rayrec.errors import DataError
from rayrec.storage import Storage

MAX_EXPANSION = 200
"""Decompressed bytes per byte of a compressed file. Real events reach 60; a bomb of zeros or blank lines 1,000."""

ALWAYS_ALLOWED = 16 << 20  # decompressed bytes, however small the file
LINES_BLOCK = 4 << 20  # bytes of lines read at a time
_BLOCK = 1 << 20  # bytes
_COMPRESSED = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh91AY&SY": "bz2", b"\x04\x22\x4d\x18": "lz4"}
_OTHERS = {
    b"PAR1\x15": "parquet",
    b"ORC\x0a": "ORC",
    b"ORC\x08": "ORC",
    b"Obj\x01": "Avro",
    b"SEQ\x06": "Hadoop sequence file",
    b"ARROW1": "Arrow",
    b"PK\x03\x04": "zip (or Excel)",
    b"\xfd7zXZ\x00": "xz",
    b"SQLite format 3\x00": "SQLite",
}
_LONGEST_MARK = 16  # bytes
_BLANK_LINES = re.compile(rb"\n(?:[ \t]*+\n)++")


class TextStream:
    """The text of one file as UTF-8 bytes, without a byte order mark.

    An undecodable byte becomes UNDECODABLE, so that the contract rejects its row and not the whole file.
    """

    def __init__(self, raw: pa.NativeFile, encoding: str, most: int | None, where: str) -> None:
        self._raw, self._encoding, self._where = raw, encoding, where
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._most = most  # decompressed bytes; None: no limit
        self._read = 0
        self._started = self.ended = False

    def read(self, size: int, before: bytes = b"", at_end: bytes = b"") -> bytes:
        """At least `size` bytes, and few more, after those of `before`; fewer only at the end, then with `at_end`.

        Raises DataError above MAX_EXPANSION.
        """
        parts = [before]  # one join: copies of megabytes cost more than parsing them
        missing = size
        while missing > 0 and not self.ended:
            parts.append(self._next_block())
            missing -= len(parts[-1])
        if self.ended:
            parts.append(at_end)
        return b"".join(parts)

    def _next_block(self) -> bytes:
        data = self._raw.read(_BLOCK)
        self.ended = not data
        if not self._read:
            _check_text(data, self._encoding, self._where)
        self._read += len(data)
        if self._most is not None and self._read > self._most:
            raise DataError(
                f"the file decompresses to more than {MAX_EXPANSION} times its size: it is damaged, or made to fill "
                "the memory",
                where=self._where,
                hint="if it is right, store it uncompressed; else remove it from the folder",
            )
        text = self._decoder.decode(data, final=self.ended)
        if text and not self._started:
            self._started, text = True, text.removeprefix("\ufeff")
        return text.encode("utf8", "replace")  # UTF-7 and the like may decode to halves of surrogate pairs


@contextmanager
def open_text(storage: Storage, path: str, encoding: str) -> Iterator[TextStream]:
    """The text of a file, decompressed according to its suffix, else to its first bytes.

    Raises DataError for a file of another kind, whatever its name: as text, it would be a few broken lines.
    """
    where = storage.url(path)
    with storage.open(path) as handle:
        compression = COMPRESSIONS.get(PurePosixPath(path.lower()).suffix)
        if compression is None:
            start = handle.read(_LONGEST_MARK)
            compression = next((kind for mark, kind in _COMPRESSED.items() if start.startswith(mark)), None)
            handle.seek(0)
        most = ALWAYS_ALLOWED + MAX_EXPANSION * storage.info(path).size if compression else None
        with pa.input_stream(handle, compression=compression) as raw:
            yield TextStream(raw, encoding, most, where)


def _check_text(start: bytes, encoding: str, where: str) -> None:
    """Raise DataError for a file that begins so, decompressed, and is no text in the encoding."""
    for mark, kind in {**_OTHERS, **{mark: f"{kind}, compressed twice" for mark, kind in _COMPRESSED.items()}}.items():
        if start.startswith(mark):
            raise DataError(
                f"this is a file of the kind {kind}",
                where=where,
                hint="write it as parquet, CSV or JSON lines with the suffix that says so, or remove it",
            )
    wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    if not wide and start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        said = "utf-32" if start.startswith(codecs.BOM_UTF32_LE) else "utf-16"
        raise DataError(
            f"the file begins with the mark of {said}, and is read as {encoding}",
            where=where,
            hint=f"set the source's encoding: {said}",
        )


def blocks_of_lines(stream: TextStream, where: str, start: bytes = b"") -> Iterator[list[str]]:
    r"""Blocks of lines, without blank ones and without their ends (`\n`, `\r\n` or `\r`).

    `start`: what has been read of the stream. Raises DataError for a line above MAX_ROW_BYTES.
    """
    rest, block = b"", start or stream.read(LINES_BLOCK)
    while rest or block:
        text = rest + block + (b"\n" if stream.ended else b"")
        held = b"\r" if text.endswith(b"\r") else b""  # its line feed may be in the next block
        if b"\r" in text:
            text = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        whole, _, tail = text.rpartition(b"\n")
        if len(tail) > MAX_ROW_BYTES:
            raise DataError(
                f"a line is longer than {MAX_ROW_BYTES >> 20} MB", where=where, hint="check the file's format"
            )
        rest = tail + held
        if b"\n\n" in whole or b" \n" in whole:
            whole = _BLANK_LINES.sub(b"\n", whole)
        lines = [line for line in whole.decode().split("\n") if line and not line.isspace()]
        for first in range(0, len(lines), MAX_BATCH_ROWS):
            yield lines[first : first + MAX_BATCH_ROWS]
        if stream.ended:
            return
        block = stream.read(LINES_BLOCK)
