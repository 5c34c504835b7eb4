"""Small files read concurrently: on a remote store each is a round trip."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

READERS = 16  # threads; also how many results are held that nobody has taken yet


def read_all(read: Callable[[S], T], those: Iterable[S]) -> list[T]:
    """`read` of each, in their order."""
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(read, those))


def read_in_order(read: Callable[[S], T], those: Iterable[S]) -> Iterator[T]:
    """`read` of each, in their order, at most READERS ahead of the caller: what is read need not fit into memory."""
    with ThreadPoolExecutor(READERS) as readers:
        ahead: deque[Future[T]] = deque()
        try:
            for one in those:
                ahead.append(readers.submit(read, one))
                if len(ahead) >= READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()
