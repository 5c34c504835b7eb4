"""What the report says of requests: what was heard, and nobody's own words."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest
from report_cases import HOSTILE, bare, full, requests, scheme

from rayrec.data.schemas import INSTRUCTION
from rayrec.monitoring.guardrails import guardrails
from rayrec.reporting.html_report import render
from rayrec.reporting.request_tables import REQUEST_RECOGNITION, recognised_counts, request_recognition


def test_what_was_heard_and_what_names_nothing() -> None:
    table = request_recognition(requests(), ["red lamp", "something in"], scheme(), matches_facets=True)
    said = {row["text"]: row for row in table.to_pylist() if row["text"] is not None}
    assert set(said) == {HOSTILE, "a red lamp", "Lamps, please"}
    found = {text: (row["heard"], row["arms"], row["rows"], row["named"]) for text, row in said.items()}
    assert found["a red lamp"] == ("red lamp", "b", 1, True)
    assert found["Lamps, please"] == ("lamp", "", 5, True)
    assert not found[HOSTILE][3]
    assert recognised_counts(table) == (5, 3)


@pytest.mark.parametrize(
    ("intention", "preference", "weighed"),
    [
        ("a lamp under 7", None, "lamp, below 5"),
        ("no lamps please", None, "not lamp"),
        ("something nice", None, ""),
        ("under 5", "likes lamp", "below 5"),
        (None, "likes lamp", ""),
    ],
)
def test_the_facets_that_a_request_names_are_told(intention: str | None, preference: str | None, weighed: str) -> None:
    row = {"user_id": "*", "arm": None, "preference": preference, "intention": intention}
    table = request_recognition(pa.Table.from_pylist([row], INSTRUCTION), ["lamp"], scheme(), matches_facets=True)
    assert table["weighed"].to_pylist() == [weighed]


def test_single_users_own_words_are_counted_but_not_told() -> None:
    table = request_recognition(requests(), ["lamp"], scheme(), matches_facets=True)
    own = [(row["named"], row["texts"], row["rows"]) for row in table.to_pylist() if row["text"] is None]
    assert sorted(own) == [(False, 1, 6), (True, 1, 1)]
    page = render(dataclasses.replace(full(), requests=table))
    assert "secret wish" not in page
    assert "my own lamp" not in page
    assert "1 in single users&#39; own words" in page or "1 in single users' own words" in page


def test_a_reader_of_every_word_misses_nothing() -> None:
    table = request_recognition(requests(), None, scheme(), matches_facets=False)
    assert recognised_counts(table) == (5, 5)
    assert set(table["heard"].to_pylist()) == {None}
    assert set(table["weighed"].to_pylist()) == {None}


def test_nobody_asks() -> None:
    assert request_recognition(requests().slice(0, 0), ["lamp"], scheme(), matches_facets=True).equals(
        REQUEST_RECOGNITION.empty_table()
    )
    assert "Nothing was asked for in words." in render(bare())


def test_requests_that_name_nothing_are_a_guardrail() -> None:
    (rail,) = (rail for rail in guardrails(full()) if rail.name == "requests that name something")
    assert (rail.found, rail.kept) == ("3 of 5", False)
    assert not [rail for rail in guardrails(bare()) if rail.name == "requests that name something"]
