"""Which engines and workers a cluster gets: as many as fit, with a CPU for the tasks that feed them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.config import Resources
from rayrec.ray_support.capacity import (
    Capacity,
    ClusterError,
    Node,
    check_gpu_stages,
    place_engines,
    place_workers,
)


def capacity(*nodes: float | tuple[float, float], may_grow: bool = False) -> Capacity:
    return Capacity(tuple(Node(*(node if isinstance(node, tuple) else (node,))) for node in nodes), may_grow)


@pytest.mark.parametrize(
    ("nodes", "asked", "engines", "cpus"),
    [
        ([2], {}, 1, 1),
        ([1], {}, 1, 0),  # one core: the engine reserves nothing
        ([4], {"rerank_actors": 4}, 3, 1),
        ([4], {"rerank_actors": (2, 4)}, (2, 3), 1),
        ([4], {"rerank_actors": (4, 4)}, (3, 3), 1),
        ([4], {"rerank_num_cpus": 4}, 1, 3),
        ([4], {"rerank_num_cpus": 16, "rerank_actors": 3}, 1, 3),
        ([4], {"rerank_num_cpus": 0, "rerank_actors": 9}, 9, 0),
        ([4, 4], {"rerank_num_cpus": 4, "rerank_actors": 2}, 1, 4),  # the other node is for the tasks
        ([2, 2], {"rerank_num_cpus": 1.5, "rerank_actors": 2}, 1, 1.5),
        ([(4, 1), 1], {"rerank_num_cpus": 4, "rerank_num_gpus": 1}, 1, 4),
        ([(4, 2)], {"rerank_num_gpus": 0.5, "rerank_actors": 8}, 3, 1),
        ([(0, 1), 2], {"rerank_num_gpus": 1}, 1, 0),
    ],
)
def test_the_engines_that_fit(nodes: list[Any], asked: dict[str, Any], engines: Any, cpus: float) -> None:
    resources = Resources(**asked)
    placed = place_engines(resources, capacity(*nodes))
    assert (placed.engines, placed.engine_cpus) == (engines, cpus)
    as_asked = (placed.engines, placed.engine_cpus) == (resources.rerank_actors, resources.rerank_num_cpus)
    assert bool(placed.notes) is not as_asked
    growing = place_engines(resources, capacity(*nodes, may_grow=True))
    assert (growing.engines, growing.engine_cpus) == (resources.rerank_actors, resources.rerank_num_cpus)


@pytest.mark.parametrize("nodes", [[8], [(8, 1)], [(8, 1), (8, 1)]])
def test_an_engine_with_more_gpus_than_any_node_is_refused(nodes: list[Any]) -> None:
    with pytest.raises(ClusterError, match="needs 2 GPUs on one node") as caught:
        place_engines(Resources(rerank_num_gpus=2), capacity(*nodes))
    assert caught.value.where == "resources.rerank_num_gpus"


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4)), min_size=1, max_size=4),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_placed_engines_leave_a_cpu_and_fit(nodes: list[tuple[int, int]], count: int, cpus: float, gpus: float) -> None:
    resources = Resources(rerank_actors=count, rerank_num_cpus=cpus, rerank_num_gpus=gpus)
    try:
        placed = place_engines(resources, capacity(*nodes))
    except ClusterError:
        assert all(graphics < gpus for _, graphics in nodes)
        return
    assert isinstance(placed.engines, int)
    total = sum(processors for processors, _ in nodes)
    assert placed.engines >= 1
    assert placed.engines * placed.engine_cpus + 1 <= total
    assert placed.engines * placed.engine_gpus <= sum(graphics for _, graphics in nodes)


@pytest.mark.parametrize(
    ("nodes", "count", "cpus", "gpus", "placed"),
    [([2], 2, 2, 0, 1), ([1], 1, 1, 0, 1), ([4, 4], 3, 2, 0, 3), ([(4, 1)], 4, 1, 1, 1), ([4], 4, 1, 0, 4)],
)
def test_the_training_workers_that_fit(nodes: list[Any], count: int, cpus: float, gpus: float, placed: int) -> None:
    found, notes = place_workers(count, cpus, gpus, capacity(*nodes))
    assert found == placed
    assert bool(notes) is (placed < count)
    assert place_workers(count, cpus, gpus, capacity(*nodes, may_grow=True)) == (count, ())


def test_a_training_worker_that_no_node_can_hold_is_refused() -> None:
    with pytest.raises(ClusterError, match="1 GPUs on one node") as caught:
        place_workers(1, 2, 1, capacity(2))
    assert caught.value.where == "resources.tune_num_gpus"


@pytest.mark.parametrize(
    ("nodes", "asked", "key"),
    [
        ([4], {"denoise_num_gpus": 1}, "resources.denoise_num_gpus"),
        ([(4, 1)], {"retrieve_num_gpus": 2}, "resources.retrieve_num_gpus"),
        ([(4, 1)], {"denoise_num_gpus": 1, "rerank_num_gpus": 1}, "resources: denoise_num_gpus, rerank_num_gpus"),
        ([(4, 1)], {"denoise_num_gpus": 0.5, "denoise_actors": 3}, "resources: denoise_num_gpus"),
    ],
)
def test_stages_that_never_get_their_gpus_together_are_refused(
    nodes: list[Any], asked: dict[str, Any], key: str
) -> None:
    with pytest.raises(ClusterError) as error:
        check_gpu_stages(Resources(**asked), True, capacity(*nodes))
    assert error.value.where == key
    check_gpu_stages(Resources(**asked), True, capacity(*nodes, may_grow=True))


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"denoise_num_gpus": 0.3, "retrieve_num_gpus": 0.2, "rerank_num_gpus": 0.5},
        {"denoise_num_gpus": 0.5, "denoise_actors": (1, 8)},
    ],
)
def test_stages_share_a_gpu_by_fractions(asked: dict[str, Any]) -> None:
    check_gpu_stages(Resources(**asked), True, capacity((4, 1)))
