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
_BLANK_LINES = re.compile(rb"\n(?:[ \t]*+\n)++")


class TextStream:
    """The text of one file as UTF-8 bytes, without a byte order mark.

    An undecodable byte becomes UNDECODABLE, so that the contract rejects its row and not the whole file.
    """

    def __init__(self, raw: pa.NativeFile, encoding: str, most: int | None, where: str) -> None:
        self._raw, self._where = raw, where
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
    """The text of a file, decompressed according to its suffix."""
    compression = COMPRESSIONS.get(PurePosixPath(path.lower()).suffix)
    most = ALWAYS_ALLOWED + MAX_EXPANSION * storage.info(path).size if compression else None
    with storage.open(path) as handle, pa.input_stream(handle, compression=compression) as raw:
        yield TextStream(raw, encoding, most, storage.url(path))


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
