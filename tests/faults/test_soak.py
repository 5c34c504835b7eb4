"""A dozen trials of the soak: `make soak` makes hundreds."""

from __future__ import annotations

import random

import pytest
import trials
from trials import Field

pytestmark = pytest.mark.slow  # starts processes

SEED = 7


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field.make(tmp_path_factory.mktemp("soak"))


def chance(number: int) -> random.Random:
    return random.Random(f"{SEED}/{number}")


def test_a_killed_run_loses_nothing(field: Field) -> None:
    for number in range(4):
        trials.kill(field, chance(number), number)
    assert field.counts["kills"] > 1


@pytest.mark.parametrize("number", [7, 50, 92])
def test_a_full_disk_loses_nothing(field: Field, number: int) -> None:
    trials.full_disk(field, chance(number), number)


def test_local_storage_that_fails_in_passing_costs_nothing(field: Field) -> None:
    trials.failing_storage(field, chance(0), 0)
    assert field.counts["local storage faults"] > 0


@pytest.mark.parametrize("number", range(5))
def test_jobs_at_once_on_one_root(field: Field, number: int) -> None:
    trials.at_once(field, chance(number), number)
