"""The text of ids: equal values are equal ids in every Arrow type that can hold them, others stay apart."""

from __future__ import annotations

import uuid
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.data.id_text import canonical_ids, id_text, is_inexact
from rayrec.errors import DataError

SAFE = 2**53 - 1
WHOLE_FLOATS = {pa.float16(): 2**11 - 1, pa.float32(): 2**24 - 1, pa.float64(): SAFE}
INTEGERS = {
    kind(): bits
    for kind, bits in {
        pa.int8: (-(2**7), 2**7 - 1),
        pa.int16: (-(2**15), 2**15 - 1),
        pa.int32: (-(2**31), 2**31 - 1),
        pa.int64: (-(2**63), 2**63 - 1),
        pa.uint8: (0, 2**8 - 1),
        pa.uint16: (0, 2**16 - 1),
        pa.uint32: (0, 2**32 - 1),
        pa.uint64: (0, 2**64 - 1),
    }.items()
}
DECIMALS = [pa.decimal32(9, 2), pa.decimal64(18, 4), pa.decimal128(38, 10), pa.decimal128(38, 0), pa.decimal256(70, 30)]
TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
INDICES = [pa.int8(), pa.uint8(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]

NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.integers(-200, 200) | st.integers(-SAFE, SAFE)


def ids(column: Any, **options: Any) -> list[str | None]:
    return list(id_text(column, "user_id", "file", **options).to_arrow().to_pylist())


def number_columns(value: int) -> list[pa.Array]:
    """Every Arrow array that holds the number and a null."""
    columns = [pa.array([value, None], kind) for kind, (low, high) in INTEGERS.items() if low <= value <= high]
    columns += [pa.array([float(value), None]).cast(kind) for kind, most in WHOLE_FLOATS.items() if abs(value) <= most]
    for kind in DECIMALS:
        if abs(value) < 10 ** (kind.precision - kind.scale):
            columns.append(pa.array([Decimal(value), None], kind))
    texts = [str(value), f" {value}\t", f"{value}.000", f"{value}.0000000000", f"\ufeff{value}\u200b"]
    if abs(value) <= SAFE:
        texts += [repr(float(value)), f"{value}.0", f"{value:.17e}".replace("e", "E"), f"{Decimal(value):.20e}"]
    return columns + [pa.array([text, None], pa.string()).cast(kind) for text in texts for kind in TEXTS]


def encodings(column: pa.Array) -> list[pa.Array | pa.ChunkedArray]:
    """The same values as dictionaries, run ends and chunks."""
    twice = pa.array([0, 1, None])
    dictionaries = [pa.DictionaryArray.from_arrays(twice.cast(kind), column) for kind in INDICES]
    chunks = pa.chunked_array([column.slice(0, 1), column.slice(1, 1)])
    views = pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type)
    return [column, chunks, *dictionaries, *([] if views else [pc.run_end_encode(column)])]


@settings(max_examples=50)
@given(NUMBERS)
def test_equal_numbers_are_equal_ids_in_every_type(value: int) -> None:
    for column in number_columns(value):
        assert ids(column) == [str(value), None], column


@pytest.mark.parametrize("value", [0, 17, -4, 2**31 + 5])
def test_encodings_change_nothing(value: int) -> None:
    for column in number_columns(value):
        for encoded in encodings(column):
            assert ids(encoded)[:2] == [str(value), None], encoded.type


@given(st.decimals(-(10**9), 10**9, places=6, allow_nan=False), st.integers(-3, 12))
def test_decimals_are_their_digits_at_every_scale(value: Decimal, scale: int) -> None:
    number = value.quantize(Decimal(1).scaleb(-scale)) or Decimal(0)
    column = pa.array([number, None], pa.decimal256(60, max(scale, -3)))
    expected = format(number, "f")
    assert ids(column) == [expected.rstrip("0").rstrip(".") if "." in expected else expected, None]


@given(st.uuids())
def test_a_uuid_is_one_id_as_type_bytes_and_text(value: uuid.UUID) -> None:
    raw = pa.array([value.bytes, None], pa.binary(16))
    columns = [raw, pa.ExtensionArray.from_storage(pa.uuid(), raw), pa.array([str(value), None])]
    for column in columns:
        assert ids(column) == [str(value), None]
        assert ids(pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.uint32()), column)) == [str(value), None]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
@pytest.mark.parametrize("value", [uuid.UUID(int=7), uuid.uuid5(uuid.NAMESPACE_DNS, "x"), uuid.UUID(int=2**128 - 1)])
def test_sixteen_raw_bytes_are_a_uuid_and_sixteen_letters_are_text(value: uuid.UUID, kind: pa.DataType) -> None:
    column = pa.array([value.bytes, b"exactly-16-chars", "günther-müller".encode(), None], kind)
    assert ids(column) == [str(value), "exactly-16-chars", "günther-müller", None]


@given(st.lists(NUMBERS | st.text(max_size=12) | st.decimals(-1000, 1000, places=3), min_size=2, max_size=20))
def test_unequal_values_stay_unequal(values: list[Any]) -> None:
    """Texts are one id only if they are the same text, or two spellings of one whole number."""

    def one(value: Any) -> str | None:
        kind = pa.uint64() if isinstance(value, int) and value >= 2**63 else None
        return ids(pa.array([value], kind))[0]

    def meaning(value: Any) -> object:
        text = one(value)
        try:
            number = Decimal(str(value).strip("\ufeff\u200b \t"))
            return int(number) if number == number.to_integral_value() else text
        except ArithmeticError:
            return text

    by_id: dict[object, set[object]] = {}
    for value in values:
        text = one(value)
        by_id.setdefault(text, set()).add(meaning(value))
    assert all(len(meanings) == 1 for meanings in by_id.values())


CODES = ["007", "007.0", "00", "1e5", "12E3", "5E10", "0e0", "1.50", "10.10", "+17", ".5", "1.", "1.0.0", "1,000.0"]
CODES += ["NA", "null", "NULL", "NaN", "nan", "None", "inf", "-", "N/A", "#N/A", "true", "0x10", "\\N", "NIL", "１.0"]


@pytest.mark.parametrize("kind", TEXTS)
def test_text_that_no_writer_of_numbers_makes_is_an_id_as_written(kind: pa.DataType) -> None:
    column = pa.array(CODES).cast(kind)
    assert ids(column) == CODES
    assert not pc.any(is_inexact(pa.array(CODES))).as_py()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12423.0", "12423"),
        ("1.2423e4", "12423"),
        ("1.2423E4", "12423"),
        ("1.2423e+04", "12423"),
        ("1e+05", "100000"),  # R
        ("1.5e+10", "15000000000"),
        ("1.24230E+05", "124230"),  # five decimals are enough for it
        ("1.0E7", "10000000"),  # Java
        ("1.242300000000000000e+04", "12423"),  # numpy.savetxt
        ("17.0000000000", "17"),
        ("-0.0", "0"),
        ("0.000000000000000000e+00", "0"),
        ("123456789012345678901234567890.0000", "123456789012345678901234567890"),  # a decimal is exact
        ("9" * 6000 + ".00", "9" * 6000),
    ],
)
def test_numbers_in_text_are_read_as_their_writers_meant(text: str, expected: str) -> None:
    assert ids(pa.array([text])) == [expected]
    assert canonical_ids([text]) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        f"{2**53}.0",
        "1.2345678901234568e+17",
        "1.5E0",
        "1.0e-05",
        "1.23457E+11",
        "1.23E+11",
        "1E+05",
        "1.24231e+06",
        "9.99E999",
        "9" * 6000 + ".0",
    ],
)
def test_text_of_an_inexact_float_is_found(text: str) -> None:
    column = id_text(pa.array([text, "17"]), "user_id", "file")
    assert is_inexact(column.values).to_pylist() == [True, False]


@given(st.floats(width=32).filter(lambda value: value != int(value) if abs(value) < 1e9 else False))
def test_a_float_with_a_fraction_is_inexact_and_a_decimal_is_not(value: float) -> None:
    assert is_inexact(id_text(pa.array([value]), "user_id", "file").values).to_pylist() == [True]
    assert ids(pa.array([Decimal("10.50"), Decimal("10.05"), Decimal("100.00")])) == ["10.5", "10.05", "100"]


def test_nan_and_infinities_of_floats_are_no_id() -> None:
    assert ids(pa.array([float("nan"), float("inf"), float("-inf"), None, 3.0])) == [None, None, None, None, "3"]


@pytest.mark.parametrize(("kind", "most"), WHOLE_FLOATS.items())
def test_a_float_that_cannot_be_exact_refuses_its_file(kind: pa.DataType, most: int) -> None:
    assert ids(pa.array([float(most), float(-most)]).cast(kind)) == [str(most), str(-most)]
    with pytest.raises(DataError, match=r"(?s)'customer'.*apart.*s3://b/f\.parquet"):
        id_text(pa.array([1.0, float(most + 1)]).cast(kind), "customer", "s3://b/f.parquet")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True]),
        pa.array([1], pa.date32()),
        pa.array([1], pa.timestamp("us")),
        pa.array([1], pa.duration("s")),
        pa.array([1], pa.time32("s")),
        pa.array([["a"]]),
        pa.array([{"a": 1}]),
        pa.array([b"12345678"], pa.binary(8)),
        pa.array([True]).dictionary_encode(),
    ],
    ids=str,
)
def test_other_types_are_refused_with_the_column_and_the_file(column: pa.Array) -> None:
    with pytest.raises(DataError, match="'user_id' holds") as refused:
        ids(column)
    assert "file" in str(refused.value)


def test_a_pattern_sees_the_text_as_it_is_written() -> None:
    assert ids(pa.array(["u-0017.0", "x"]), extract=r"^u-(\d+\.0)$") == ["0017.0", None]
    assert ids(pa.array(["17850.0", "5.0"]), extract=r"^(\d+)\.0$") == ["17850", "5"]
    assert ids(pa.array(["id:5.0"]), extract="id:(.*)") == ["5"]


def test_characters_of_no_width_are_no_part_of_an_id() -> None:
    hidden = ["ann", "\ufeffann", "a\u200bnn", "ann\u200d", "\u2060ann\u00ad", " \u200eann\u200f "]
    assert ids(pa.array(hidden)) == ["ann"] * len(hidden)
    assert ids(pa.array(["\u200b", "\ufeff "])) == [None, None]
    assert all(left != right for left, right in pairwise(ids(pa.array(["ann", "änn", "aｎn"]))))
