"""A stage that no node can run ends within `resources.no_progress_minutes`, and says what it waited for."""

from __future__ import annotations

import pyarrow as pa
import pytest
import ray
from ray.data import DataContext

from rayrec.ray_support.capacity import ClusterError
from rayrec.ray_support.cluster import gather
from rayrec.ray_support.stage_runner import ActorPoolSpec, WorkItem, append_stage, run_pending


class Echo:
    def __init__(self, spec: object) -> None:
        pass

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        return pa.table({"rows": [1]})


def test_a_request_that_no_node_can_hold_is_named(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 3)
    pool = ActorPoolSpec(1, num_cpus=1000)
    with pytest.raises(ClusterError, match=r"waiting for .*1000 CPU") as caught:
        run_pending([WorkItem(0, 0)], lambda dataset: append_stage(dataset, Echo, None, pool=pool))
    assert caught.value.where == "resources.no_progress_minutes"


def test_a_task_that_no_node_can_hold_is_named(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 3)
    possible, impossible = ray.remote(lambda: 1), ray.remote(num_cpus=1000)(lambda: 2)
    assert gather([possible.remote(), possible.remote()], "fit") == [1, 1]
    with pytest.raises(ClusterError, match=r"nothing moved on for 0.05 minutes: waiting for .*1000 CPU") as caught:
        gather([possible.remote(), impossible.remote()], "fit")
    assert caught.value.where == "resources.no_progress_minutes"
