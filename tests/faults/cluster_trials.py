"""Kills on a real Ray cluster: driver, worker, raylet, engine, tuner. One head stays alive over all trials.

The head has no CPUs, a second node has two: its raylet can be killed, and another node takes its place.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import drivers
import pyarrow as pa
from drivers import Driver, Ended
from ray_heads import RayHead, command_of, ray_head
from soak_runs import run_on_cluster
from storage_faults import CONTROL, Plan, calls, killed_nodes
from trials import Field
from waiting import PATIENCE_S

HERE = Path(__file__).parent
PROCESSES = ("driver", "worker", "raylet", "worker", "driver", "raylet", "engine", "tuner")
WITH_LLM = ("engine", "tuner")
LLM_SETTINGS = (
    "rerank.method=item_token",
    "rerank.engine=transformers",
    *("tuning.epochs=2", "tuning.layers=1", "tuning.width=32", "tuning.heads=1", "tuning.feedforward=64"),
    "resources.tune_num_cpus=1",
    "blend.cutoffs=0",
)
TITLES = {"engine": "ray::MapWorker", "tuner": "RayTrainWorker"}  # how Ray names their processes
ATTEMPTS = 4  # of the run after a kill: the loss of a node may take the driver with it
POLL_S = 0.05
NO_PROGRESS_MINUTES = 5
HANG_S = 1500.0  # far above the limit of the job itself, and its 300 s of grace


@contextmanager
def environment_of_cluster(control: Path) -> Iterator[dict[str, str]]:
    """What driver, workers and this process need; in place before the first driver is forked."""
    paths = [str(HERE / "hook"), str(HERE), str(HERE.parent / "support"), str(HERE.parents[1])]
    changes = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),  # Ray keeps the first that it sees
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        CONTROL: str(control),
        # A raylet that was killed is noticed within seconds.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "5",
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield changes
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass
class KillCluster:
    """A head, and one node with CPUs that is started again when it is gone."""

    head: RayHead
    shop: Field
    expected: dict[bool, pa.Table] = field(default_factory=dict)  # with the LLM or without
    calls: dict[bool, int] = field(default_factory=dict)
    _node: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def start(cls, shop: Field, environment: dict[str, str]) -> Iterator[KillCluster]:
        """`environment`: of `environment_of_cluster`."""
        Plan().write(shop.control)
        with ray_head("--num-cpus=0", environment=environment) as head:
            yield cls(head, shop)

    def ensure_node(self) -> None:
        if self._node is None or self._node.poll() is not None:
            command = ["ray", "start", f"--address={self.head.address}", "--num-cpus=2", "--block"]
            with self.head.log.with_name("node.log").open("ab") as sink:
                self._node = subprocess.Popen(
                    command, env=self.head.environment, stdout=sink, stderr=sink, start_new_session=True
                )

    def drive(self, root: Path, overrides: tuple[str, ...]) -> Driver:
        self.ensure_node()
        environment = {**self.head.reached_by(), CONTROL: str(self.shop.control)}
        return drivers.start(
            run_on_cluster,
            self.shop.shop,
            str(root),
            (*overrides, f"resources.no_progress_minutes={NO_PROGRESS_MINUTES}"),
            folder=self.shop.folder / "ended",
            environment=environment,
        )

    def whole_run(self, root: Path, overrides: tuple[str, ...]) -> None:
        """Until the day is published: the run may be begun again, as an operator or KubeRay would."""
        for _ in range(ATTEMPTS):
            Plan().write(self.shop.control)
            driver = self.drive(root, overrides)
            ended = self._wait(driver)
            if ended.status == 0:
                return
        raise AssertionError(f"{ATTEMPTS} runs did not publish: {ended}")

    def prepare(self, with_llm: bool) -> None:
        """The rows of an undisturbed run."""
        if with_llm in self.expected:
            return
        root = self.shop.folder / "undisturbed"
        shutil.rmtree(root, ignore_errors=True)
        self.whole_run(root, LLM_SETTINGS if with_llm else ())
        self.calls[with_llm] = calls(self.shop.control)[0]
        self.expected[with_llm] = self.shop.shop.published(root)
        shutil.rmtree(root)

    def kill_one(self, chance: random.Random, number: int) -> None:
        """Trial: kill the process that number says at a moment that the seed says; resume; compare."""
        process = PROCESSES[number % len(PROCESSES)]
        with_llm = process in WITH_LLM
        self.prepare(with_llm)
        overrides = LLM_SETTINGS if with_llm else ()
        root = self.shop.new_root()
        Plan().write(self.shop.control)
        driver = self.drive(root, overrides)
        killed = self._kill(process, driver, chance.uniform(0.02, 0.98) * self.calls[with_llm], chance)
        ended = self._wait(driver)
        self.shop.counts[f"kills of a {process} on Ray"] += killed
        if process in ("worker", "engine", "tuner"):
            assert ended.status == 0, (process, ended)  # the run itself goes on
        self._assert_nothing_half(root, with_llm)
        self.whole_run(root, overrides)
        assert self._assert_nothing_half(root, with_llm)

    def kill_nodes_at(self, where: Sequence[str]) -> None:
        """A run with the LLM whose nodes are killed before the first write of a file that matches each pattern; another
        node comes each time. If the run ends, it is begun again, as an operator or KubeRay would. Compare."""
        self.prepare(True)
        root, plan = self.shop.new_root(), Plan("node", where=tuple(where))
        plan.write(self.shop.control)
        for _ in range(1 + len(where)):
            ended = self._wait(self.drive(root, LLM_SETTINGS))
            if ended.status == 0:
                break
            assert ended.status == 1, ended  # neither the config nor the data is to blame
        assert ended.status == 0, ended
        never = [pattern for number, pattern in enumerate(where) if number not in killed_nodes(self.shop.control)]
        assert not never, f"nothing was written there: {never}"
        assert self._assert_nothing_half(root, True)

    def _assert_nothing_half(self, root: Path, with_llm: bool) -> bool:
        plain, self.shop.expected = self.shop.expected, self.expected[with_llm]
        try:
            return self.shop.assert_nothing_half(root)
        finally:
            self.shop.expected = plain

    def _kill(self, process: str, driver: Driver, moment: float, chance: random.Random) -> bool:
        """SIGKILL when so many storage calls are made; an engine or tuner: some time after it appears."""
        while driver.process.is_alive():
            if process in TITLES:
                if found := self._named(TITLES[process]):
                    time.sleep(chance.uniform(0, 1.5))
                    return _killed(found[0])
            elif calls(self.shop.control)[0] >= moment:
                if process == "driver":
                    return _killed(driver.pid)
                victims = self.head.node_raylets() if process == "raylet" else self._named("ray::")
                if victims:
                    return _killed(chance.choice(victims))
            self.ensure_node()
            time.sleep(POLL_S)
        return False

    def _wait(self, driver: Driver) -> Ended:
        until = time.monotonic() + HANG_S
        while driver.process.is_alive() and time.monotonic() < until:
            self.ensure_node()
            driver.process.join(POLL_S * 10)
        ended = driver.wait(0 if driver.process.is_alive() else PATIENCE_S)
        if ended.error == "Hang":
            mine = "\n".join(f"{pid} {command_of(pid)[:150]}" for pid in self.head.processes())
            node = self.head.log.with_name("node.log").read_text(errors="replace")[-2000:]
            raise AssertionError(f"{ended.text}\nprocesses:\n{mine}\nthe node:\n{node}\nthe head:\n{self.head.logs()}")
        return ended

    def _named(self, title: str) -> list[int]:
        """Workers of this cluster that are at work under such a name."""
        return [pid for pid in self.head.processes() if title in command_of(pid) and "IDLE" not in command_of(pid)]


def _killed(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
