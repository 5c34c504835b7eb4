"""The local cluster of a job: several may run on one machine, leave nothing behind, and end with their driver."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from waiting import PATIENCE_S, line_of

from rayrec.config import Resources
from rayrec.ray_support.cluster import ClusterError, connect, placeable_cpus
from rayrec.ray_support.memory_request import placeable_memory
from rayrec.storage import temporary_folders

pytestmark = pytest.mark.slow  # starts clusters

_DRIVER = """
import sys
import ray
from rayrec.ray_support.cluster import connect
from rayrec.config import Resources

with connect(Resources(local_cpus=1, local_object_store_mb=128)) as cluster:
    raylet = ray.get(ray.remote(lambda: __import__("os").getppid()).remote())
    waits = ray.get(ray.remote(lambda: __import__("os").environ["OMP_WAIT_POLICY"]).remote())
    print(cluster.address, cluster.local, cluster.num_cpus, raylet, waits, flush=True)
    sys.stdin.readline()
"""


@dataclass(frozen=True)
class Driver:
    """Output of a driver after it connected, and how it ended."""

    home: Path
    temp: Path
    address: str
    local: bool
    num_cpus: float
    raylet: int  # process id
    waits: str  # OMP_WAIT_POLICY of a worker
    status: int
    rights: tuple[int, ...]  # of what it had in its temporary directory while it ran


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Driver]]:
    """Two drivers, connected at the same time; the first ends normally, the second is killed."""
    homes = [tmp_path_factory.mktemp("home") for _ in range(2)]
    temps = [Path(tempfile.mkdtemp(prefix="rrl-", dir="/tmp")) for _ in range(2)]  # short, for Ray's sockets
    started = [_start(home, temp) for home, temp in zip(homes, temps, strict=True)]
    said = [line_of(process, process.stdout).split() for process in started]  # a failed driver prints its error above
    rights = [tuple(path.stat().st_mode & 0o777 for path in temp.iterdir()) for temp in temps]
    started[0].communicate("\n", timeout=PATIENCE_S)
    started[1].kill()
    started[1].communicate(timeout=PATIENCE_S)
    yield [
        Driver(home, temp, address, local == "True", float(num_cpus), int(raylet), waits, process.returncode, seen)
        for home, temp, (address, local, num_cpus, raylet, waits), process, seen in zip(
            homes, temps, said, started, rights, strict=True
        )
    ]
    for temp in temps:
        shutil.rmtree(temp, ignore_errors=True)


def _start(home: Path, temp: Path) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_"))}
    env |= {"HOME": str(home), "TMPDIR": str(temp)}
    command = [sys.executable, "-c", _DRIVER]
    return subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_two_runs_on_one_machine_have_separate_clusters(drivers: list[Driver]) -> None:
    assert len({driver.address for driver in drivers}) == 2
    assert all(driver.local and driver.num_cpus == 1 for driver in drivers)


def test_idle_threads_of_workers_do_not_spin(drivers: list[Driver]) -> None:
    assert [driver.waits for driver in drivers] == ["PASSIVE", "PASSIVE"]


def test_nothing_is_written_to_the_home_folder(drivers: list[Driver]) -> None:
    assert [os.listdir(driver.home) for driver in drivers] == [[], []]


def test_no_other_user_can_enter_the_folder_of_a_running_cluster(drivers: list[Driver]) -> None:
    """Ray makes its own folder 0777."""
    assert [driver.rights for driver in drivers] == [(0o700,), (0o700,)]


def test_the_next_job_deletes_what_a_killed_run_left(drivers: list[Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _ends(drivers[1].raylet)
    monkeypatch.setattr(tempfile, "tempdir", str(drivers[1].temp))
    (left,) = drivers[1].temp.iterdir()
    assert temporary_folders.abandoned() == [left]
    assert temporary_folders.delete_abandoned() == [str(left)]


def test_a_finished_run_removes_its_cluster_and_files(drivers: list[Driver]) -> None:
    assert drivers[0].status == 0
    assert os.listdir(drivers[0].temp) == []
    assert _ends(drivers[0].raylet)


def test_a_killed_run_ends_its_cluster(drivers: list[Driver]) -> None:
    assert drivers[1].status == -signal.SIGKILL
    assert _ends(drivers[1].raylet)


def test_the_address_of_a_job_api_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(ClusterError, match="ray job submit"), connect(Resources()):
        pass


def test_an_address_at_which_nothing_listens_is_an_error_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, and without a listener
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(ClusterError, match="cannot reach the Ray cluster"), connect(Resources()):
            pass


@pytest.mark.parametrize(
    ("nodes", "asked", "given"),
    [
        ([1, 1, 1, 1], 2, 1),  # four CPUs, but no node with two
        ([4, 1, 16], 2, 2),
        ([4, 1], 16, 4),
        ([0.5], 2, 0.5),
        ([None], 2, 2),  # a head without CPUs
        ([0, None], 2, 2),
        ([], 2, 2),
    ],
)
def test_a_task_requests_at_most_the_cpus_of_the_largest_node(
    monkeypatch: pytest.MonkeyPatch, nodes: list[float | None], asked: float, given: float
) -> None:
    dead = {"Alive": False, "Resources": {"CPU": 64.0}}
    alive = [{"Alive": True, "Resources": {"memory": 1e9} | ({} if cpus is None else {"CPU": cpus})} for cpus in nodes]
    monkeypatch.setattr("ray.nodes", lambda: [dead, *alive])
    assert placeable_cpus(asked) == given


def test_a_task_requests_at_most_the_memory_of_the_largest_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": {"memory": size}} for size in (1e9, 4e9)]
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": False, "Resources": {"memory": 64e9}}, *nodes])
    assert placeable_memory(3 << 30) == 3 << 30
    assert placeable_memory(9 << 30) == 4_000_000_000
    assert placeable_memory(0) is None
    monkeypatch.setattr("ray.nodes", lambda: [])  # the cluster is expected to grow
    assert placeable_memory(3 << 30) == 3 << 30


def _ends(pid: int, timeout_s: float = PATIENCE_S) -> bool:
    """Whether the process ends, or becomes a zombie, within the time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False
