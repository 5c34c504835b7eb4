"""Says what a stage waits for when nothing of it finishes: a request that no node can hold, or work that takes long.

Ray itself is silent about both. The limit after which a stage ends is `resources.no_progress_minutes`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import ray

from rayrec.ray_support import stop_signals
from rayrec.ray_support.capacity import ClusterError

_LOG = logging.getLogger(__name__)
_FIRST_S = 120.0  # the first words; then after twice the time each
LONG_S = 600.0  # the first words about tasks that usually take longer than a shard
_GRACE_S = 300.0  # after the limit, for whoever waits to raise its error


@contextmanager
def watching(
    name: str,
    limit_s: float = -1.0,
    *,
    first_s: float = _FIRST_S,
    waits_for: Callable[[], str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    end: Callable[[str, int], None] | None = None,
) -> Iterator[Callable[[], None]]:
    """Call the result whenever a work item of the stage `name` has finished; a thread warns where that does not happen.

    `limit_s`: how long the stage may be without progress, seconds; -1: without end. If the first work item takes more
    than half of it, a warning says so. Whoever waits is to raise an error at the limit; where it waits in a call that
    does not return, the thread calls `end` with words and an exit code, which ends the process.
    """
    started = last = clock()
    finished, ended = 0, threading.Event()

    def progressed() -> None:
        nonlocal last, finished
        now = clock()
        if not finished and 0 < limit_s < 2 * (now - started):
            what = (
                "%s: the first shard took %.1f minutes, and resources.no_progress_minutes is %.1f; use more data.shards"
            )
            _LOG.warning(what, name, (now - started) / 60, limit_s / 60)
        last, finished = now, finished + 1

    def watch() -> None:
        since, pause = last, first_s
        latest_s = limit_s + _GRACE_S if limit_s > 0 else math.inf
        while not ended.wait(max(0.01, since + min(pause, latest_s) - clock())):
            if last > since:
                since, pause = last, first_s
                continue
            quiet_s = clock() - since
            if quiet_s >= min(pause, latest_s):
                quiet, why = f"{quiet_s / 60:.0f} minutes", (waits_for or waiting_for)()
                if quiet_s >= latest_s:
                    (end or stop_signals.end_with)(f"error: {stalled(f'{name}: {quiet}', why)}", ClusterError.exit_code)
                    latest_s = math.inf
                _LOG.warning("%s: nothing finished for %s; %s", name, quiet, why)
                pause *= 2

    thread = threading.Thread(target=watch, daemon=True, name=f"watch-{name}")
    thread.start()
    try:
        yield progressed
    finally:
        ended.set()
        thread.join()


def stalled(since: str, why: str) -> ClusterError:
    """The error of a stage that does not move on."""
    return ClusterError(
        f"nothing moved on for {since}: {why}",
        where="resources.no_progress_minutes",
        hint="run the job again: it resumes. If one shard takes longer, use more data.shards or raise this setting",
    )


def waiting_for() -> str:
    """What requests of the connected cluster wait for, and what is free."""
    with suppress(Exception):  # the cluster may be about to end
        free, total = ray.available_resources(), ray.cluster_resources()
        return describe(pending_requests(), free, total)
    return "the cluster does not answer"


def describe(
    pending: Mapping[tuple[tuple[str, float], ...], int], free: Mapping[str, float], total: Mapping[str, float]
) -> str:
    """`waiting_for` as text. `pending`: number of requests by the resources of each."""
    kinds = ("CPU", "GPU")
    has = ", ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s free" for kind in kinds)
    if not pending:
        return f"no task or actor waits for resources, so it is the work that takes long ({has})"
    asks = "; ".join(
        f"{count} x ({', '.join(f'{amount:g} {kind}' for kind, amount in request) or 'no resources'})"
        for request, count in sorted(pending.items())
    )
    return (
        f"waiting for {asks}: {has}. If no node is going to come, lower resources.rerank_actors, rerank_num_cpus, "
        "rerank_num_gpus, tune_workers or tune_num_gpus; `ray status` shows the nodes"
    )


def pending_requests() -> dict[tuple[tuple[str, float], ...], int]:
    """The cluster's requests that no node holds yet. Private in Ray 2.60, whose public state API needs a dashboard."""
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    state = get_cluster_resource_state(ray._private.worker.global_worker.gcs_client)
    found: dict[tuple[tuple[str, float], ...], int] = {}
    for one in state.pending_resource_requests:
        request = tuple(sorted((kind, amount) for kind, amount in one.request.resources_bundle.items() if amount))
        found[request] = found.get(request, 0) + one.count
    return found
