"""Kills of a driver, a worker and a raylet on a real Ray cluster. `make soak` makes many, of engines and tuners too."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from cluster_trials import PROCESSES, KillCluster, environment_of_cluster
from trials import Field

pytestmark = pytest.mark.slow  # starts a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillCluster]:
    folder = tmp_path_factory.mktemp("kills")
    with environment_of_cluster(folder / "control") as environment:
        field = Field.make(folder)
        with KillCluster.start(field, environment) as started:
            yield started


@pytest.mark.parametrize("process", ["driver", "worker", "raylet"])
def test_a_killed_process_loses_nothing(cluster: KillCluster, process: str) -> None:
    cluster.kill_one(random.Random(process), PROCESSES.index(process))
