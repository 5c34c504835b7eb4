"""Real Ray heads for tests: own port, token and temp dir, ended by killing exactly the processes they started.

`ray stop` is no use here: it ends every Ray on the machine. Each head instead carries a marker in its environment. All
its descendants inherit it (raylets, workers, nodes that an autoscaler launches), and only they are killed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from waiting import PATIENCE_S

REPOSITORY = Path(__file__).parents[2]
_MARKER = "RAYREC_TEST_HEAD"
_START_ATTEMPTS = 3


@dataclass(frozen=True)
class RayHead:
    """A running head: `address` (host:port), `jobs_url` (HTTP), and the environment with the token that it demands."""

    address: str
    jobs_url: str
    environment: Mapping[str, str]
    log: Path

    def reached_by(self, **changes: str) -> dict[str, str]:
        """The environment of a driver on this head."""
        return {**self.environment, "RAY_ADDRESS": self.address, **changes}

    def run(self, command: Sequence[str], *, cwd: Path = REPOSITORY, timeout_s: float = PATIENCE_S) -> str:
        """Run a driver with this head as its cluster; its output. Fails the test, with output and logs, if it fails."""
        done = subprocess.run(
            command,
            cwd=cwd,
            env=self.reached_by(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{self.logs()}"
        return done.stdout

    def processes(self) -> list[int]:
        """All that it started and that is alive, nodes and workers included."""
        return _marked(self.environment[_MARKER])

    def node_raylets(self) -> list[int]:
        """The raylets of the nodes that joined it."""
        return node_raylets(self.environment[_MARKER])

    def logs(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


@contextmanager
def ray_head(
    *options: str,
    dashboard: bool = False,
    before: Callable[[str], None] = lambda address: None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RayHead]:
    """Start `ray start --head` with `options`; everything it started is dead, and its files gone, on leaving.

    `before` is called with the address (host:port) before each attempt to start it there.
    """
    # Not pytest's tmp_path: Ray puts Unix sockets below, and those may be at most 107 characters long.
    folder = Path(tempfile.mkdtemp(prefix="rrt-", dir="/tmp"))
    marker = secrets.token_hex(16)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_failure_threshold": "20",  # on a busy machine a late answer is no dead node
        "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": str(PATIENCE_S),  # its own 30 s are too few there
        _MARKER: marker,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **(environment or {}),
    }
    options = (f"--temp-dir={folder}", f"--include-dashboard={str(dashboard).lower()}", *options)
    try:
        yield _started(options, env, folder / "ray-start.log", before)
    finally:
        _kill_marked(marker)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _started(options: Sequence[str], env: Mapping[str, str], log: Path, before: Callable[[str], None]) -> RayHead:
    """Ray gives a node 30 seconds to come up, which a machine busy with other tests may need more than once; and they
    may have taken a port that was free."""
    for _ in range(_START_ATTEMPTS):
        port, dashboard_port, agent_port, client_port = free_ports(4)
        address = f"127.0.0.1:{port}"
        before(address)
        command = [
            *("ray", "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={dashboard_port}"),
            *(f"--dashboard-agent-listen-port={agent_port}", f"--ray-client-server-port={client_port}"),
            *options,
        ]
        with log.open("wb") as sink:
            process = subprocess.Popen(command, env=env, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
        while process.poll() is None:
            if b"Ray runtime started" in log.read_bytes():
                return RayHead(address, f"http://127.0.0.1:{dashboard_port}", env, log)
            time.sleep(0.1)
        _kill_marked(env[_MARKER])
    raise AssertionError(f"ray start failed {_START_ATTEMPTS} times\n{log.read_text(errors='replace')}")


def _kill_marked(marker: str) -> None:
    """Kill until none is left: a process may be starting another while it is killed."""
    while pids := _marked(marker):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def node_raylets(marker: str | None = None) -> list[int]:
    """The raylets of the nodes that joined a head: by default the head that this process descends from."""
    alive = _marked(marker or os.environ[_MARKER])
    return [
        pid
        for pid in alive
        if (command := command_of(pid)).split(" ")[0].endswith("/raylet") and "--head" not in command
    ]


def _marked(marker: str) -> list[int]:
    needle = f"{_MARKER}={marker}".encode()
    return [pid for pid in running() if needle in environment_of(pid)]


def running() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def command_of(pid: int) -> str:
    """Its command line, words separated by blanks; "" for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
