"""Fixtures that many tests share, and what each test needs of the machine: the markers `unit` and `slow`.

A test is `unit` unless it is marked `slow` or uses a fixture that starts Ray, vLLM or a server, or makes a whole run.
Under pytest-xdist all tests that use the session's Ray cluster run in one process, so that there is one cluster; every
other file stays whole, so that its fixtures are made once.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["s3_server", "cloud_servers"]  # tests/support

# Before Ray starts: without a mode and a token it writes a token file in the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# Before torch starts its threads: idle ones that spin take the CPU from other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("rayrec", deadline=None)  # a slow machine fails no test
settings.load_profile("rayrec")

THIS = Path(__file__)
REPOSITORY = THIS.parents[1]
CLUSTER = "local_ray"
# How the names of fixtures begin that start something, or make a whole run.
SLOW_FIXTURES = (CLUSTER, "first_run", "s3_server", "gcs_server", "azure_server", "redis_server", "vllm")


@pytest.fixture(scope="session")
def local_ray(s3_server: str) -> Iterator[None]:
    """A real local Ray cluster of two CPUs, and of a GPU that is not there, for the whole test session; its workers can
    reach the S3 server."""
    import ray

    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        needs = _fixtures(item)
        if not item.get_closest_marker("slow") and any(name.startswith(SLOW_FIXTURES) for name in needs):
            item.add_marker("slow")
        if not any(item.get_closest_marker(name) for name in ("slow", "gpu")):
            item.add_marker("unit")
    items.sort(key=lambda item: not _on_cluster(item.path))  # they take longest


class OneCluster(LoadScopeScheduling):
    """Files are shared out whole, those that use the session's Ray cluster as if they were one file.

    It stands in for `--dist loadgroup`, which pytest-xdist 3.8 does not apply under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return CLUSTER if _on_cluster(REPOSITORY / file) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneCluster:
    return OneCluster(config, log)


@cache
def _on_cluster(file: Path) -> bool:
    """Whether a test file, or the conftest.py beside it, names the cluster's fixture."""
    beside = file.with_name("conftest.py")
    return any(CLUSTER in path.read_text(encoding="utf8") for path in {file, beside} - {THIS} if path.exists())


def _fixtures(item: pytest.Item) -> set[str]:
    """The fixtures that a test uses, those that its parameters name among them."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    named = {value for value in parameters.values() if isinstance(value, str)}
    server = {"s3": "s3_server", "gs": "gcs_server", "az": "azure_server"}.get(str(parameters.get("storage_root")))
    return {*getattr(item, "fixturenames", ()), *named, *({server} if server else ())}
