"""Work that many processes begin at the same moment."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from multiprocessing.synchronize import Barrier
from typing import TypeVar

from waiting import PATIENCE_S

T = TypeVar("T")


def race(work: Callable[[str, int, Barrier], T], root: str, numbers: Iterable[int]) -> dict[int, T]:
    """work(root, number, barrier) in a process for each number: number -> result."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pytest", "s3fs", "aiobotocore.session", "rayrec"])
    numbers = list(numbers)
    barrier, answers = processes.Barrier(len(numbers)), processes.Queue()
    # The fork server keeps the environment of its own start, perhaps from before there was an S3 server.
    rest = (dict(os.environ), barrier, answers)
    racers = [processes.Process(target=_answer, args=(work, root, number, *rest)) for number in numbers]
    for racer in racers:
        racer.start()
    found = dict(answers.get(timeout=PATIENCE_S) for _ in racers)
    for racer in racers:
        racer.join()
    return found


def _answer(
    work: Callable[[str, int, Barrier], T],
    root: str,
    number: int,
    environment: dict[str, str],
    barrier: Barrier,
    answers: multiprocessing.Queue[tuple[int, T]],
) -> None:
    os.environ.update(environment)
    answers.put((number, work(root, number, barrier)))
