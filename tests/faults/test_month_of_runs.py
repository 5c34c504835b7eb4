"""The sixth run in an output root leaves what the third left, and holds no more memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from month_of_runs import run_days
from tiny_runs import TinyShop

_LEEWAY = 64 << 20  # bytes: what allocators keep differs from run to run; a leak of the tables of a run is more


@pytest.mark.slow
def test_a_run_costs_the_same_however_many_dates_are_published(tmp_path: Path) -> None:
    costs = list(run_days(TinyShop.make(tmp_path / "shop"), tmp_path / "out", 6))
    third, last = costs[2], costs[-1]
    data = {"quarantine"}  # which dates have broken rows
    assert {name: n for name, n in last.files.items() if name not in data} == {
        name: n for name, n in third.files.items() if name not in data
    }
    assert last.memory_bytes < third.memory_bytes + _LEEWAY
