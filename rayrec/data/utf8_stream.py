"""Bytes of a file, compressed or not, in any encoding, as a stream of valid UTF-8."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

import pyarrow as pa

from rayrec.data.input_files import COMPRESSIONS
from rayrec.storage import Storage

UNDECODABLE = "�"  # stands for bytes that are no text in the declared encoding
_BLOCK = 1 << 20


class Utf8Stream(io.RawIOBase):
    """Reads `raw`, text in `encoding`, as UTF-8 that ends in a line break.

    One undecodable byte must not cost the file: it becomes UNDECODABLE, and the contract judges the row.
    """

    def __init__(self, raw: pa.NativeFile, encoding: str, longest: int) -> None:
        self._raw = raw
        self.longest = longest  # bytes that may come at most
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = b""
        self._ended = False
        self.blank = True  # until anything but white space has been read

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing and (block := self._ready or self._next_block()):
            part = block if size < 0 else block[:missing]
            self._ready = block[len(part) :]
            parts.append(part)
            missing -= len(part) if size >= 0 else 0
        return b"".join(parts)

    def _next_block(self) -> bytes:
        while not self._ended:
            data = self._raw.read(_BLOCK)
            self._ended = not data
            block = self._decoder.decode(data, final=self._ended).encode() + (b"\n" if self._ended else b"")
            self.blank = self.blank and not block.strip()
            if block:
                return block
        return b""


@contextmanager
def opened(storage: Storage, path: str, encoding: str) -> Iterator[Utf8Stream]:
    """The text of a file, decompressed as its name says."""
    compression = COMPRESSIONS.get(PurePosixPath(path.lower()).suffix)
    # A byte becomes three at most: the replacement character is the longest that a single byte can turn into.
    longest = sys.maxsize if compression else 3 * storage.info(path).size + 64
    with storage.open(path) as handle, pa.input_stream(handle, compression=compression) as raw:
        yield Utf8Stream(raw, encoding, longest)
