"""Request recognition: recognised terms, facets, and privacy of single users' texts."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest
from report_cases import HOSTILE, bare, full, recognition, requests, scheme

from rayrec.data.schemas import INSTRUCTION
from rayrec.instructions.request_understanding import Understanding
from rayrec.monitoring.request_recognition import REQUEST_RECOGNITION, facets_text, recognised_counts
from rayrec.reporting.guardrails import guardrails
from rayrec.reporting.html_report import render


def test_in_vocabulary_words_and_recognised_terms() -> None:
    table = recognition(requests(), ["red lamp", "something in"])
    said = {row["text"]: row for row in table.to_pylist() if row["text"] is not None}
    assert set(said) == {HOSTILE, "a red lamp", "Lamps, please"}
    found = {text: (row["in_vocabulary"], row["arms"], row["rows"], row["recognised"]) for text, row in said.items()}
    assert found["a red lamp"] == ("red lamp", "b", 1, True)
    assert found["Lamps, please"] == ("lamp", "", 5, True)
    assert not found[HOSTILE][3]
    assert recognised_counts(table) == (5, 3)


@pytest.mark.parametrize(
    ("intention", "preference", "facets", "not_understood"),
    [
        ("a lamp under 7", None, "lamp, below 5", ""),
        ("no lamps please", None, "not lamp", ""),
        ("something nice", None, "", "something nice"),
        ("a lamp, unbreakable", None, "lamp", "unbreakable"),
        ("under 5", "likes lamp", "below 5, lamp", ""),
        (None, "likes lamp", "lamp", ""),
    ],
)
def test_what_a_text_means_is_listed(
    intention: str | None, preference: str | None, facets: str, not_understood: str
) -> None:
    row = {"user_id": "*", "arm": None, "preference": preference, "intention": intention}
    table = recognition(pa.Table.from_pylist([row], INSTRUCTION), ["lamp"])
    assert table["facets"].to_pylist() == [facets]
    assert table["not_understood"].to_pylist() == [not_understood]


def test_soft_weights_are_listed_strongest_first() -> None:
    assert facets_text(Understanding(((0, 0.4), (1, -0.81))), scheme()) == "lamp .40, not below 5 .81"
    assert facets_text(Understanding(((0, 0.4), (1, 1.0))), scheme()) == "below 5, lamp .40"


def test_texts_of_single_users_are_counted_but_not_shown() -> None:
    table = recognition(requests(), ["lamp"])
    own = [(row["recognised"], row["texts"], row["rows"]) for row in table.to_pylist() if row["text"] is None]
    assert sorted(own) == [(False, 1, 6), (True, 1, 1)]
    page = render(dataclasses.replace(full(), requests=table))
    assert "secret wish" not in page
    assert "my own lamp" not in page
    assert "1 texts of single users" in page


def test_without_an_llm_a_request_is_recognised_by_what_it_means() -> None:
    table = recognition(requests(), None)
    assert recognised_counts(table) == (5, 3)
    assert set(table["in_vocabulary"].to_pylist()) == {None}


def test_a_run_without_requests() -> None:
    assert recognition(requests().slice(0, 0), ["lamp"]).equals(REQUEST_RECOGNITION.empty_table())
    assert "The run had no requests." in render(bare())


def test_unrecognised_requests_fail_a_guardrail() -> None:
    (rail,) = (rail for rail in guardrails(full()) if rail.name == "requests with a recognised term")
    assert (rail.measured, rail.passed) == ("3 of 5", False)
    assert not [rail for rail in guardrails(bare()) if rail.name == "requests with a recognised term"]
