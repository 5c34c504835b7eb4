"""The Ray cluster that a job runs on: the one it was submitted to, or a local one that ends with the job.

    with connect(config.resources) as cluster:
        ...

Any number of local clusters may share a machine: each has its own temp dir, ports and token, so none can be joined by
accident. Nothing is written to the home folder.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]
from ray.data import DataContext
from ray.exceptions import AuthenticationError

from rayrec.config import Resources
from rayrec.numerics.threads import with_thread_limit
from rayrec.ray_support import ray_metrics, stall_watch, stop_signals
from rayrec.ray_support.capacity import Capacity, ClusterError, Node
from rayrec.ray_support.memory_request import placeable_memory
from rayrec.ray_support.stage_runner import repeating
from rayrec.storage import retries, temporary_folders

# A Unix socket's path holds 107 bytes (103 on macOS); Ray appends /session_<time>_<pid>/sockets/plasma_store, up to 66.
_LONGEST_TEMP_DIR = 37
_RAY = "r"  # Ray's folder within ours
_OWN = f"/{temporary_folders.PREFIX}12345678/{_RAY}"
WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""What every process of the job has in its environment, unless the driver's says otherwise. Idle OpenMP threads that
spin take the CPU from other work of the node: beside it, a tuning was three times as slow."""
_ATTACH_LIMIT_S = 45.0
_START_ATTEMPTS = 3  # Ray's limit of 30 seconds may be too short on a busy machine


_LOCAL = {"own": False}  # whether this process started the cluster, which then cannot grow


@dataclass(frozen=True)
class Cluster:
    """A connected cluster. Resources are those of the nodes alive now; an autoscaling cluster may grow beyond them."""

    address: str
    local: bool
    num_cpus: float
    num_gpus: float


@contextmanager
def connect(resources: Resources) -> Iterator[Cluster]:
    """Attach to the cluster that RAY_ADDRESS names (as in every `ray job submit`), else start a local one.

    A process that is already attached keeps its connection. A local cluster ends with the block, and also when the
    process is killed. Raises ClusterError.
    """
    minutes = resources.no_progress_minutes
    DataContext.get_current().execution_no_progress_timeout_s = 60 * minutes if minutes else -1
    if ray.is_initialized():
        yield _describe(local=False)
        return
    address = _address()
    temporary_folders.delete_abandoned()
    temp_dir = _temp_dir() if address == "local" else None
    try:
        _attach(address) if temp_dir is None else _start(resources, str(temp_dir / _RAY))
        stop_signals.restore()
        _LOCAL["own"] = temp_dir is not None
        yield _describe(local=temp_dir is not None)
    finally:
        _LOCAL["own"] = False
        ray.shutdown()
        if temp_dir is not None:
            temporary_folders.delete_folder(temp_dir)
            temporary_folders.delete_process_folder()
            temporary_folders.delete_abandoned()  # of the cluster's workers, which end without a word


def capacity() -> Capacity:
    """The nodes of the connected cluster. One that this process did not start may grow."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(has.get("CPU", 0.0), has.get("GPU", 0.0)) for has in alive)
    return Capacity(nodes, may_grow=not _LOCAL["own"])


def placeable_cpus(num_cpus: float) -> float:
    """`num_cpus`, capped at the CPUs of the largest node alive, because a task or worker must fit on one node.

    Nodes without CPUs do not count: if there are no others yet, the cluster is expected to grow.
    """
    largest = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    return min(num_cpus, largest or num_cpus)


def task(work: Callable[..., None], num_cpus: float, memory: int = 0) -> Any:
    """Wrap `work` as a Ray task (call `.remote(…)`) with `placeable_cpus(num_cpus)` CPUs and as many threads.

    `memory`: bytes that Ray reserves for it, at most those of a node. Like a work item, it is run again after a
    TransientStorageError.
    """
    cpus = placeable_cpus(num_cpus)
    limited = with_thread_limit(cpus, work)

    @functools.wraps(work)
    def working(*args: Any, **kwargs: Any) -> dict[str, int]:
        repeating(lambda: limited(*args, **kwargs))
        return retries.take()

    return ray.remote(num_cpus=cpus, memory=placeable_memory(memory), max_retries=3)(working)


def wait_for(*tasks: ray.ObjectRef, name: str = "tasks") -> None:
    """Wait for tasks of `task`, as `gather`."""
    for repeats in gather(tasks, name):
        retries.add(repeats)
        ray_metrics.add_repeats(repeats)


def gather(tasks: Sequence[ray.ObjectRef], name: str) -> list[Any]:
    """The results of Ray tasks, in order. While none ends, a warning that starts with `name` says what they wait for.

    Raises the error of one that failed, and ClusterError if there has been no place for one for
    `resources.no_progress_minutes`; a task that runs may take longer.
    """
    pending, limit_s = list(tasks), DataContext.get_current().execution_no_progress_timeout_s
    with stall_watch.watching(name, first_s=stall_watch.LONG_S) as progressed:
        while pending:
            done, pending = ray.wait(pending, timeout=limit_s if limit_s > 0 else None)
            if not done and stall_watch.pending_requests():
                raise stall_watch.stalled(f"{limit_s / 60:g} minutes", stall_watch.waiting_for())
            ray.get(done)
            progressed()
        found: list[Any] = ray.get(list(tasks))
        return found


def _address() -> str:
    address = os.environ.get("RAY_ADDRESS", "").strip() or "local"
    if "://" in address and not address.startswith("ray://"):
        raise ClusterError(
            "RAY_ADDRESS is the address of the job API, not of a cluster",
            where=address,
            hint="submit the job there: ray job submit --working-dir . -- python -m jobs.daily ...",
        )
    return address


def _attach(address: str) -> None:
    if address != "auto":
        require_listener(address)
    # Ray would try for a quarter of an hour, in native code that no signal interrupts.
    hung = f"error: {_unreachable(address, f'no answer within {_ATTACH_LIMIT_S:.0f} s')}"
    limit = threading.Timer(_ATTACH_LIMIT_S, stop_signals.end_with, (hung, ClusterError.exit_code))
    limit.daemon = True
    limit.start()
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": {name: os.environ.get(name, value) for name, value in WORKER_ENVIRONMENT.items()}},
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except AuthenticationError as error:
        raise ClusterError(
            "the Ray cluster refuses the token",
            where=address,
            hint="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to what the cluster started with",
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(address, str(error)) from error
    finally:
        limit.cancel()


def require_listener(address: str, timeout_s: float = 20.0) -> None:
    """Raise ClusterError unless something accepts TCP connections at the address, `host:port` or `ray://host:port`."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _unreachable(address, f"it is no host:port ({error})") from None
    if not host or port is None:
        raise _unreachable(address, "it is no host:port; a cluster's usual port is 6379, that of ray:// is 10001")
    outcome: list[OSError | None] = []

    def probe() -> None:
        try:
            socket.create_connection((host, port), timeout_s / 2).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    # In a thread, because the resolution of a name has no limit of its own.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome or outcome[0] is not None:
        raise _unreachable(address, str(outcome[0]) if outcome else f"no answer within {timeout_s:.0f} s")


def _unreachable(address: str, why: str) -> ClusterError:
    return ClusterError(
        f"cannot reach the Ray cluster: {why}",
        where=f"RAY_ADDRESS={address}",
        hint="start the cluster, correct RAY_ADDRESS, or unset it to run on this machine alone",
    )


def _start(resources: Resources, temp_dir: str) -> None:
    _own_token()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # the cluster's processes inherit it
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            # address="local": without it Ray would join any cluster it finds running on this machine.
            ray.init(
                address="local",
                num_cpus=resources.local_cpus,
                object_store_memory=resources.local_object_store_mb << 20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _temp_dir=temp_dir,
            )
            return
        except Exception as error:  # Ray often raises a bare Exception here
            if "timed out during startup" in str(error) and attempt < _START_ATTEMPTS:
                continue  # the partly started cluster ends with this process
            raise ClusterError(
                f"cannot start Ray on this machine: {error}",
                hint="see that processors, memory and disk are free, or lower resources.local_object_store_mb",
            ) from error


def _own_token() -> None:
    """Make the local cluster require a token of this process, unless the user has set up Ray's authentication.

    Without a token Ray would write a token file into the home folder, and every later cluster of this user would
    require it. The token is one per process and stays in its environment, because Ray keeps the first that it sees.
    """
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token")
    if mode == "token" and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Ray reads its environment at import; this reads it again. Private in Ray 2.60: the public way, no mode
    # in the environment, prints a warning in every process. tests/ray_support/test_local_cluster.py notices a change.
    RayConfig.initialize("")


def _temp_dir() -> Path:
    """A new folder for this run, short enough for the sockets that Ray puts below it.

    Ray gives every user all rights to its own folder (0777), with logs, spilled objects and sockets in it, so that
    folder is within one that nobody else can enter.
    """
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        if len(parent) + len(_OWN) <= _LONGEST_TEMP_DIR and os.access(parent, os.W_OK):
            return temporary_folders.new_folder(parent)
    raise ClusterError(
        "no folder for Ray's temporary files has a path short enough for Unix sockets",
        where=tempfile.gettempdir(),
        hint=f"set TMPDIR to a writable folder whose path has at most {_LONGEST_TEMP_DIR - len(_OWN)} characters",
    )


def _describe(*, local: bool) -> Cluster:
    has = ray.cluster_resources()
    address = ray.get_runtime_context().gcs_address
    return Cluster(address, local, has.get("CPU", 0.0), has.get("GPU", 0.0))
