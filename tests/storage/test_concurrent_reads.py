"""Small files read concurrently: in order, and never far ahead of the reader."""

from __future__ import annotations

from threading import Lock

import pytest

from rayrec.storage.concurrent_reads import READERS, read_all, read_in_order


def test_both_give_the_results_in_order() -> None:
    numbers = range(5 * READERS)
    assert read_all(lambda number: number * 2, numbers) == [number * 2 for number in numbers]
    assert list(read_in_order(lambda number: number * 2, numbers)) == [number * 2 for number in numbers]
    assert list(read_in_order(lambda number: number, [])) == []


def test_no_more_is_read_ahead_than_there_are_readers() -> None:
    lock, started = Lock(), [0]

    def read(number: int) -> int:
        with lock:
            started[0] += 1
        return number

    for taken, _ in enumerate(read_in_order(read, range(200))):
        assert started[0] <= taken + READERS


def test_an_error_reaches_the_caller() -> None:
    def read(number: int) -> int:
        if number == 3:
            raise ValueError("broken")
        return number

    for way in (read_all, read_in_order):
        with pytest.raises(ValueError, match="broken"):
            list(way(read, range(40)))
