"""Errors of stages reach the driver unchanged, whatever their class."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from rayrec.errors import MissingFileError, RayrecError
from rayrec.ray_support.cluster import ClusterError
from rayrec.ray_support.stage_runner import WorkItem, _apply, results


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
    carried = _apply(Refusing(kind("what", where="where", hint="do")), table)
    assert carried.select(["cutoff", "shard"]).to_pylist() == [{"cutoff": 5, "shard": 3}]
    with pytest.raises(kind) as error:
        list(results(OneTable(carried)))
    assert type(error.value) is kind
    assert (error.value.what, error.value.where, error.value.hint) == ("what", "where", "do")
