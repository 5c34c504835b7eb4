"""The catalogue: sorted, unique items, clean text; independent of how counts were split."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_tables import item_table

from rayrec.config import Data
from rayrec.data import catalogue
from rayrec.data.input_files import item_files
from rayrec.data.schemas import ITEM
from rayrec.data.text_columns import as_text
from rayrec.errors import DataError
from rayrec.slates.slate_rules import unreadable_numbers

ROWS = [("tea", "Tea", "2"), ("cup", "Cup", "1"), ("tea", "tea!", "2"), ("tea", "Tea", "3"), ("pot", "", "9")]


def text(values: list[str | None]) -> Any:
    return as_text(pa.chunked_array([pa.array(values, pa.string())]), "column", "here")


def counts(rows: list[tuple[str, str, str]]) -> pa.Table:
    ids, titles, prices = ([row[field] for row in rows] for field in range(3))
    return catalogue.count_items(text(ids), {"title": text(titles), "attributes.price": text(prices)})


def from_file(folder: Path, content: str, **items: Any) -> catalogue.CatalogueResult:
    (folder / "items.csv").write_text(content, encoding="utf8")
    data = Data.model_validate(
        {"root": str(folder), "interactions": {"path": "x"}, "items": {"path": "items.csv", **items}}
    )
    return catalogue.catalogue_from_files(data, item_files(data))


def test_from_interactions_each_field_is_its_most_frequent_value() -> None:
    found = catalogue.catalogue_from_counts([counts(ROWS)])
    assert found.schema == ITEM
    assert [(row["item_id"], row["title"], dict(row["attributes"])) for row in found.to_pylist()] == [
        ("cup", "Cup", {"price": "1"}),
        ("pot", "pot", {"price": "9"}),
        ("tea", "Tea", {"price": "2"}),
    ]


def test_prices_are_read_as_their_column_writes_them(tmp_path: Path) -> None:
    content = 'item_id,title,price\na,A,£3.50\nb,B,"1,299.00 €"\nc,C,\nd,D,on request\n'
    prices = {"price": {"column": "price", "number": "1,234.56"}}
    found = from_file(tmp_path, content, attributes=prices).catalogue
    assert [dict(row).get("price") for row in found["attributes"].to_pylist()] == [
        "3.50",
        "1299.00",
        None,
        "on request",
    ]
    assert unreadable_numbers(found["attributes"], "price") == (1, 3, "on request")
    plain = from_file(tmp_path, content, attributes={"price": "price"}).catalogue
    assert unreadable_numbers(plain["attributes"], "price") == (3, 3, "£3.50")


def test_ties_between_frequent_values_go_to_the_smallest() -> None:
    found = catalogue.catalogue_from_counts([counts([("a", "y", "1"), ("a", "x", "1")])])
    assert found["title"].to_pylist() == ["x"]


def test_the_catalogue_does_not_depend_on_how_the_rows_were_split() -> None:
    draw = np.random.default_rng(1)
    rows = [ROWS[i] for i in draw.integers(0, len(ROWS), 100)]
    whole = catalogue.catalogue_from_counts([counts(rows)])
    parts = [counts(rows[at : at + 9]) for at in range(0, 100, 9)]
    assert catalogue.catalogue_from_counts(reversed(parts)).equals(whole)
    assert catalogue.catalogue_from_counts([catalogue.merge_item_counts(parts[:5]), *parts[5:]]).equals(whole)


def test_items_from_files_are_sorted_and_the_first_of_duplicates_counts(tmp_path: Path) -> None:
    read = from_file(tmp_path, "item_id,title,cat\nb,Bee,x\na,Ay,\nb,Other,y\n", category="cat")
    assert [(row["item_id"], row["title"], row["category"]) for row in read.catalogue.to_pylist()] == [
        ("a", "Ay", None),
        ("b", "Bee", "x"),
    ]
    assert read.quarantine.select(["row", "reason"]).to_pylist() == [{"row": 3, "reason": "duplicate_item"}]


def test_titles_lose_hidden_characters_and_excess_length(tmp_path: Path) -> None:
    hidden = "Nice\x00\u202e  cup\u2028of \U000e0041tea"
    read = from_file(tmp_path, f"item_id,title,text\na,{hidden},{'x' * 5000}\nb,{'y ' * 1000},\n", description="text")
    assert read.catalogue["title"].to_pylist()[0] == "Nice cup of tea"
    assert len(read.catalogue["title"].to_pylist()[1]) <= 500
    assert len(read.catalogue["description"].to_pylist()[0]) == 2000


def test_availability_accepts_the_usual_words_and_missing_means_yes(tmp_path: Path) -> None:
    content = "item_id,title,stock\na,A,yes\nb,B,False\nc,C,\nd,D,perhaps\ne,E,0\n"
    read = from_file(tmp_path, content, available="stock")
    assert dict(zip(*(read.catalogue[name].to_pylist() for name in ("item_id", "available")), strict=True)) == {
        "a": True,
        "b": False,
        "c": True,
        "e": False,
    }
    assert read.quarantine["reason"].to_pylist() == ["bad_available"]


def test_an_empty_catalogue_is_an_error() -> None:
    with pytest.raises(DataError, match="the catalogue is empty"):
        catalogue.catalogue_from_counts([])


def test_launches_are_utc_times_and_unreadable_ones_are_quarantined(tmp_path: Path) -> None:
    content = "item_id,title,from\na,A,2026-02-01\nb,B,2026-02-01T12:00:00+02:00\nc,C,\nd,D,soon\n"
    read = from_file(tmp_path, content, available_from="from")
    assert read.catalogue["available_from"].to_pylist() == [
        datetime(2026, 2, 1, tzinfo=UTC),
        datetime(2026, 2, 1, 10, tzinfo=UTC),
        None,
    ]
    assert read.quarantine["reason"].to_pylist() == ["bad_available_from"]


def test_an_item_is_recommended_from_its_launch_on() -> None:
    launches = [None, datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC), None]
    items = item_table(item_id=list("abcd"), available=[True, True, True, False], available_from=launches)
    cutoff = int(datetime(2026, 2, 1, tzinfo=UTC).timestamp() * 1e6)
    for days, expected in (
        (0.0, [True, False, False, False]),
        (1.0, [True, True, False, False]),
        (1.5, [True] * 3 + [False]),
    ):
        assert catalogue.recommendable(items, cutoff, days).tolist() == expected
