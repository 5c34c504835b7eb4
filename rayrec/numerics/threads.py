"""Limits the threads of torch, BLAS and OpenMP to the CPUs of a task.

Ray sets OMP_NUM_THREADS, which a library reads once, when it is loaded, so a process would keep the thread count of its
first task. Rounding may depend on the number of threads (tuning does), and with it the order of near ties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def thread_limit(cpus: float) -> Iterator[None]:
    """Compute on floor(cpus) threads, at least one; restore the previous limits afterwards.

    Libraries loaded inside the block have Ray's number.
    """
    count, before = max(1, int(cpus)), torch.get_num_threads()
    with threadpool_limits(count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def with_thread_limit(cpus: float, work: Callable[P, T]) -> Callable[P, T]:
    """Wrap `work` in `thread_limit(cpus)`."""

    @wraps(work)
    def working(*args: P.args, **kwargs: P.kwargs) -> T:
        with thread_limit(cpus):
            return work(*args, **kwargs)

    return working
