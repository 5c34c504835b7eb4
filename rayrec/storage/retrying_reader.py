"""A remote file's reader whose reads are repeated like every other call of the store."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO


class RetryingReader(io.RawIOBase):
    """Reads of `file`, each made by `call`, which repeats it from the same place and explains its errors."""

    def __init__(self, file: BinaryIO, call: Callable[[Callable[[], bytes]], bytes]) -> None:
        super().__init__()
        self._file, self._call = file, call

    def read(self, size: int | None = -1, /) -> bytes:
        start, count = self._file.tell(), -1 if size is None else size

        def read() -> bytes:
            self._file.seek(start)
            return self._file.read(count)

        return self._call(read)

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
