"""The CSV reader against DuckDB's and Arrow's on random files; what decided for ours is in `benchmarks.csv_readers`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.csv_readers import BROKEN, Result, arrow, duck, ours, some_file

CELL = st.text(st.sampled_from('ab ,"\n\u00e9;'), max_size=4)
ROW = st.tuples(CELL, CELL, CELL).filter(any)
NUMBER_OF_FIELDS = st.sampled_from(["1,2", "1,2,3,4", "x"])


@given(records=st.lists(st.one_of(ROW, NUMBER_OF_FIELDS), max_size=8), quoted=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_three_readers_give_the_same_values_and_the_same_rejected_rows(
    records: list[tuple[str, str, str] | str], quoted: bool, tmp_path: Path
) -> None:
    def written(cell: str) -> str:
        plain = not quoted and not set(cell) & {",", "\n", '"'}
        return cell if plain else '"' + cell.replace('"', '""') + '"'

    lines = [each if isinstance(each, str) else ",".join(map(written, each)) for each in records]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["u,i,x", *lines]) + "\n", encoding="utf8", newline="")
    rows = [each for each in records if not isinstance(each, str)]
    expected = Result(rows, [number for number, each in enumerate(records, 1) if isinstance(each, str)])
    assert ours(path) == expected
    assert arrow(path) == expected
    assert duck(path) == expected


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("seed", range(20))
def test_every_broken_row_is_told_by_its_number_and_costs_no_other(broken: str, seed: int, tmp_path: Path) -> None:
    text, expected = some_file(random.Random(seed), broken)
    (tmp_path / "a.csv").write_text(text, encoding="utf8", newline="")
    assert ours(tmp_path / "a.csv") == expected
