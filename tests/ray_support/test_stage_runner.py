"""Errors of stages reach the driver unchanged, whatever their class; a stage whose storage failed is run again."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from rayrec.errors import MissingFileError, RayrecError, StorageError, TransientStorageError
from rayrec.ray_support.cluster import ClusterError
from rayrec.ray_support.stage_runner import ActorPoolSpec, WorkItem, _apply, pool_strategy, results
from rayrec.storage import retries
from rayrec.storage.retries import WORK_ITEM_POLICY, RetryPolicy


class OwnError(RayrecError):
    """An error class defined by a method."""


class Refusing:
    def __init__(self, error: RayrecError) -> None:
        self._error = error

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        raise self._error


class OneTable:
    """The part of a dataset's interface that `results` uses."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def iter_batches(self, **_: object) -> Iterator[pa.Table]:
        yield self._table


@pytest.mark.parametrize("kind", [MissingFileError, ClusterError, OwnError])
def test_an_error_of_any_module_reaches_the_driver_unchanged(kind: type[RayrecError]) -> None:
    table = pa.table({"cutoff": [5], "shard": [3]})
    carried = _apply(lambda: Refusing(kind("what", where="where", hint="do")), table)
    assert carried.select(["cutoff", "shard"]).to_pylist() == [{"cutoff": 5, "shard": 3}]
    with pytest.raises(kind) as error:
        list(results(OneTable(carried)))
    assert type(error.value) is kind
    assert (error.value.what, error.value.where, error.value.hint) == ("what", "where", "do")


class Passing:
    """A stage whose storage fails a few times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        if self.left:
            self.left -= 1
            raise TransientStorageError("the store is overloaded")
        return pa.table({"rows": [7, 8]})


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryPolicy, "pause_s", lambda self, repeat: 0.0)
    retries.take()


def test_a_stage_is_run_again_and_the_driver_learns_how_often(hasty: None) -> None:
    table = pa.table({"cutoff": [5], "shard": [3]})
    one, other = Passing(2), Passing(1)
    (found,) = results(OneTable(_apply(lambda: other, _apply(lambda: one, table))))
    assert found.to_pylist() == [{"rows": n, "cutoff": 5, "shard": 3} for n in (7, 8)]
    assert retries.take() == {retries.WORK_ITEMS: 3}


def test_a_stage_is_built_again_where_the_building_failed(hasty: None) -> None:
    attempts = []

    def build() -> Passing:
        attempts.append(1)
        if len(attempts) < 3:
            raise TransientStorageError("the store is overloaded")
        return Passing(0)

    (found,) = results(OneTable(_apply(build, pa.table({"cutoff": [5], "shard": [3]}))))
    assert found["rows"].to_pylist() == [7, 8]


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(TransientStorageError("overloaded"), WORK_ITEM_POLICY.attempts), (StorageError("access denied"), 1)],
)
def test_an_error_that_lasts_or_stays_reaches_the_driver(error: StorageError, attempts: int, hasty: None) -> None:
    tried = []

    def build() -> Refusing:
        tried.append(1)
        return Refusing(error)

    carried = _apply(build, pa.table({"cutoff": [5], "shard": [3]}))
    with pytest.raises(type(error)) as raised:
        list(results(OneTable(carried)))
    assert type(raised.value) is type(error)
    assert len(tried) == attempts


@pytest.mark.parametrize(
    ("pool", "items", "expected"),
    [
        (ActorPoolSpec((1, 4), num_gpus=1), 9, (1, 4, 4)),
        (ActorPoolSpec((2, 4), num_gpus=0.5), 3, (2, 3, 3)),
        (ActorPoolSpec((1, 4)), 9, (1, 4, 1)),  # engines on CPUs would take those of the tasks that feed them
        (ActorPoolSpec(3, num_gpus=1), 9, (3, 3, 3)),
        (ActorPoolSpec(3), 2, (2, 2, 2)),
    ],
)
def test_a_pool_with_gpus_asks_for_all_actors_at_once_and_none_has_more_than_there_is_work(
    pool: ActorPoolSpec, items: int, expected: tuple[int, int, int]
) -> None:
    strategy = pool_strategy(pool, items)
    assert (strategy.min_size, strategy.max_size, strategy.initial_size) == expected
