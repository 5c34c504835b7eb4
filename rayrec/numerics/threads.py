"""As many threads for torch, BLAS and OpenMP as a task has CPUs, whatever its process did before.

Ray tells each task's libraries their number of threads by OMP_NUM_THREADS, which a library reads once, when it is
loaded. A process that runs several tasks keeps the number of the first: a fit that reserved two CPUs computed on one or
on two, by which process was free. Rounding may depend on that number (a tuning's does), and with it the order of near
ties.
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
    """Compute on floor(cpus) threads, at least one; afterwards on as many as before.

    What is loaded only within the block has the number that Ray gave.
    """
    count, before = max(1, int(cpus)), torch.get_num_threads()
    with threadpool_limits(count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def with_thread_limit(cpus: float, work: Callable[P, T]) -> Callable[P, T]:
    """`work`, within `threads(cpus)`."""

    @wraps(work)
    def working(*args: P.args, **kwargs: P.kwargs) -> T:
        with thread_limit(cpus):
            return work(*args, **kwargs)

    return working
