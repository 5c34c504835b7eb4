"""Times of every type and format; invalid times are flagged."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.config.file_source import strptime_can_read
from rayrec.data.column_parsing import (
    EARLIEST,
    LATEST,
    UnreadableTimeError,
    floats,
    microseconds,
    plain_numbers,
    typed_floats,
)

MOMENT = datetime(2011, 8, 31, 12, 30, 15, tzinfo=UTC)
MICROS = int(MOMENT.timestamp()) * 1_000_000
moments = st.datetimes(datetime(1990, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))


def read(values: Any, **settings: Any) -> list[int | None]:
    array = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
    micros, valid = microseconds(array, **settings)
    return [int(m) if ok else None for m, ok in zip(micros, valid, strict=True)]


@pytest.mark.parametrize(
    ("column", "settings"),
    [
        (pa.array([MOMENT], pa.timestamp("us", tz="UTC")), {}),
        (pa.array([MOMENT], pa.timestamp("ns", tz="Asia/Tokyo")), {}),
        (pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("s")), {}),
        (pa.array([datetime(2011, 8, 31, 13, 30, 15)], pa.timestamp("ms")), {"timezone": "Europe/London"}),
        (pa.array([MICROS // 1_000_000]), {"unit": "s"}),
        (pa.array([MICROS // 1_000_000], pa.uint64()), {"unit": "s"}),
        (pa.array([MICROS / 1e6]), {"unit": "s"}),
        (pa.array([MICROS // 1000]), {"unit": "ms"}),
        (pa.array([MICROS * 1000]), {"unit": "ns"}),
        (pa.array([str(MICROS // 1_000_000)]), {"unit": "s"}),
        (pa.array([f"{MICROS / 1e6:.1f}"]), {"unit": "s"}),
        (pa.array(["2011-08-31 12:30:15"]), {}),
        (pa.array([" 2011-08-31T12:30:15Z "]), {}),
        (pa.array(["2011-08-31T12:30:15.000000000"]), {}),
        (pa.array(["2011-08-31T14:30:15+02:00"]), {}),
        (pa.array(["2011-08-31 13:30:15"]), {"timezone": "Europe/London"}),
        (pa.array(["31/08/2011 12:30:15"]), {"format": "%d/%m/%Y %H:%M:%S"}),
        (pa.array(["2011-08-31 12:30:15 UTC"]), {}),
        (pa.array(["2011-08-31 12:30:15.000000 UTC"]), {"timezone": "Asia/Tokyo"}),
        (pa.array(["2011-08-31 12:30:15.000 GMT", None]).slice(0, 1), {}),
        (pa.array(["2011-08-31 12:30:15+00"]), {"timezone": "Asia/Tokyo"}),
        (pa.array(["2011-08-31 05:30:15.000 -0700"]), {}),
        (pa.array(["2011-08-31 12:30:15 +0000 UTC"]), {}),
        (pa.array(["2011-08-31 12:30:15 Z"]), {}),
        (pa.array(["2011-08-31 12:30:15,000"]), {}),
        (pa.array(["20110831T123015Z"]), {}),
        (pa.array(["20110831T123015"]), {}),
        (pa.array([20110831123015]), {"format": "%Y%m%d%H%M%S"}),
        (pa.array([20110831123015.0]), {"format": "%Y%m%d%H%M%S"}),
        (pa.array(["2011-08-31 14:30:15 +0200"]), {"format": "%Y-%m-%d %H:%M:%S %z"}),
    ],
    ids=str,
)
def test_every_column_type_gives_the_same_time(column: pa.Array, settings: dict[str, Any]) -> None:
    assert read(column, **settings) == [MICROS]


@pytest.mark.parametrize("bad", ["junk", "2011-02-29", "2011-08-31 24:00:00", "2011-8-1", "99999-01-01", "1970-01-01"])
def test_one_unreadable_time_does_not_invalidate_the_others(bad: str) -> None:
    assert read(["2011-08-31 12:30:15", bad, "2011-08-31T12:30:15Z", None]) == [MICROS, None, MICROS, None]


def test_a_nonexistent_day_is_invalid_in_every_format() -> None:
    assert read(["30.02.2011", "02.03.2011", "2.3.2011"], format="%d.%m.%Y")[0] is None
    assert read(["2011-02-30", "x"])[0] is None


def test_large_numbers_do_not_overflow_into_plausible_times() -> None:
    values = pa.array([(1 << 62), -(1 << 62), (1 << 63) - 1, MICROS // 1_000_000])
    assert read(values, unit="s") == [None, None, None, MICROS]
    assert read(values.cast(pa.timestamp("s")), unit=None) == [None, None, None, MICROS]
    assert read(["1e30", "9" * 19, "-5", str(MICROS // 1_000_000)], unit="s") == [None, None, None, MICROS]


def test_dates_start_at_midnight_in_their_time_zone() -> None:
    midnight = MICROS - int(timedelta(hours=12, minutes=30, seconds=15).total_seconds()) * 1_000_000
    assert read(pa.array([date(2011, 8, 31)])) == [midnight]
    assert read(pa.array([date(2011, 8, 31)]), timezone="Europe/London") == [midnight - 3_600_000_000]


@given(moments, st.integers(-14 * 60, 14 * 60))
@settings(max_examples=50, deadline=None)
def test_iso_text_with_an_offset_agrees_with_python(moment: datetime, offset: int) -> None:
    written = moment.astimezone(timezone(timedelta(minutes=offset))).isoformat()
    expected = round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    assert read([written]) == [expected]
    assert read([written, "broken"]) == [expected, None]


@given(st.lists(st.text(max_size=30), max_size=5))
@settings(max_examples=40, deadline=None)
def test_any_text_is_parsed_or_flagged(texts: list[str]) -> None:
    for settings_ in ({}, {"unit": "s"}, {"unit": "ns"}, {"format": "%Y-%m-%d"}, {"timezone": "Europe/London"}):
        micros, valid = microseconds(pa.array(texts, pa.string()), **settings_)
        assert np.all((micros[valid] >= EARLIEST) & (micros[valid] < LATEST))


@pytest.mark.parametrize("column", [pa.array([1]), pa.array([True]), pa.array([[1]])], ids=lambda c: str(c.type))
def test_a_column_that_cannot_hold_times_is_refused(column: pa.Array) -> None:
    with pytest.raises(UnreadableTimeError):
        microseconds(column)


def test_formats_that_only_strftime_knows_are_found() -> None:
    assert strptime_can_read("%d/%m/%y %H:%M")
    assert not strptime_can_read("%Y-%m-%d %f")


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (pa.array([20110831, 20110901]), "set `format` ('%Y%m%d'); the first is 20110831"),
        (pa.array([float("nan"), 20110831.0]), "set `format`"),
        (pa.array([40786.52]), "days since 1900 of a spreadsheet"),
        (pa.array([1314793815]), "set `unit` (s, ms, us or ns); the first is 1314793815"),
        (pa.array([], pa.int64()), "set `unit`"),
    ],
)
def test_numbers_without_a_unit_say_what_they_look_like(column: pa.Array, says: str) -> None:
    with pytest.raises(UnreadableTimeError) as error:
        microseconds(column)
    assert says in str(error.value)


def test_day_keys_are_days_in_every_type() -> None:
    midnight = int(datetime(2011, 8, 31, tzinfo=UTC).timestamp()) * 1_000_000
    for column in (pa.array([20110831, None, 20110231]), pa.array([20110831.0, float("nan"), 20110831.5])):
        assert read(column, format="%Y%m%d") == [midnight, None, None]
    assert read(["20110831", "20110231", "2011083"]) == [midnight, None, None]


def test_numbers_are_read_missing_or_flagged() -> None:
    texts = [
        " 1.5",
        "1e3",
        "",
        None,
        "NaN",
        "nan",
        "true",
        "False",
        "TRUE",
        "t",
        "inf",
        "£3.50",
        "1.234,56",
        "1,5",
        "yes",
    ]
    values, wrong = floats(pa.array(texts, pa.string()))
    assert values.tolist()[:2] == [1.5, 1000]
    assert np.isnan(values[2:6]).all()
    assert values.tolist()[6:10] == [1, 0, 1, 1]
    assert wrong.tolist() == [False] * 10 + [True] * 5
    values, wrong = typed_floats(pa.array([1.5, None, float("nan"), float("inf")]))
    assert wrong.tolist() == [False, False, False, True]
    assert typed_floats(pa.array([True, False, None]))[0].tolist()[:2] == [1, 0]


@pytest.mark.parametrize(
    ("written", "texts", "plain"),
    [
        (
            "1,234.56",
            [
                "£3.50",
                "1,299.00 €",
                "USD 1,000,000",
                "-£2.5",
                "£-2.5",
                "Rs. 500",
                "1 299.00 kr",
                "1\u202f299",
                "5.",
            ],
            ["3.50", "1299.00", "1000000", "-2.5", "-2.5", "500", "1299.00", "1299", "5."],
        ),
        (
            "1.234,56",
            ["3,50 €", "1.299,00 €", "CHF 1'299", "1.000.000", "-0,5", "12"],
            ["3.50", "1299.00", "1299", "1000000", "-0.5", "12"],
        ),
        ("1,234.56", None, ["free", "3 for 5", "10-20", "1,2,3", "1,23", "€", "12e3x4", ".5"]),
        ("1.234,56", None, ["1.50", "1,299.00", "n/a"]),
    ],
)
def test_numbers_with_currencies_are_read_as_their_column_writes_them(
    written: str, texts: list[str] | None, plain: list[str]
) -> None:
    found = plain_numbers(pa.array(texts or plain), written)
    assert found.to_pylist() == plain
    assert plain_numbers(pa.array([None, *plain]), "1,234.56").to_pylist()[0] is None
