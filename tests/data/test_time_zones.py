"""Local times by Python's time zone database equal those by Arrow's, also where clocks change."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.config import load
from rayrec.data import time_zones
from rayrec.errors import ConfigError

ZONES = ["Europe/London", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
CHANGES = [datetime(2024, 3, 31), datetime(2024, 10, 27), datetime(2024, 3, 10), datetime(2024, 11, 3)]


@given(
    st.sampled_from(ZONES),
    st.lists(st.datetimes(datetime(1991, 1, 1), datetime(2037, 1, 1)), max_size=20),
    st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 86_399)), max_size=20),
)
def test_both_databases_give_the_same_moments(
    zone: str, times: list[datetime], changes: list[tuple[datetime, int]]
) -> None:
    both = pa.array(times, pa.timestamp("us")).cast(pa.int64()).to_pylist()
    both += [int((day - datetime(1970, 1, 1)).total_seconds() + second) * 1_000_000 for day, second in changes]
    micros = np.array(both, np.int64)
    assert time_zones.to_utc(micros, zone).tolist() == time_zones.to_utc_by_pandas(micros, zone).tolist()


@pytest.fixture
def no_database_for_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise pa.ArrowInvalid("Cannot locate or parse timezone")

    monkeypatch.setattr("pyarrow.compute.assume_timezone", refuse)


def test_without_a_database_for_arrow_pythons_is_used(no_database_for_arrow: None) -> None:
    local = int(datetime(2024, 5, 1, 10).timestamp() - datetime(1970, 1, 1).timestamp()) * 1_000_000
    assert time_zones.to_utc(np.array([local]), "Europe/London").tolist() == [local - 3_600_000_000]


def test_a_zone_is_removed_without_a_database() -> None:
    times = pa.array([0, None, 86_400_000_000], pa.timestamp("us", "Nowhere/Unknown"))
    assert time_zones.without_zone(times).to_pylist() == [datetime(1970, 1, 1), None, datetime(1970, 1, 2)]
    assert time_zones.as_text(times).to_pylist() == ["1970-01-01 00:00:00.000000Z", None, "1970-01-02 00:00:00.000000Z"]


def test_no_time_zone_data_at_all_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr("rayrec.config.config.ZoneInfo", missing)
    with pytest.raises(ConfigError, match="no time zone data") as caught:
        load(Path("any.yaml"))
    assert "pip install tzdata" in caught.value.hint
