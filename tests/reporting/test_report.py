"""The report page: hostile text, missing data, round trip."""

from __future__ import annotations

import dataclasses
import json
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scipy.sparse as sp
from report_cases import HOSTILE, bare, changed_slates, full, slates, table_of

from rayrec.errors import DataError
from rayrec.evaluation.comparison import COMPARISON, COVERAGE, compare
from rayrec.evaluation.metrics import RelevantItems, user_metrics
from rayrec.monitoring.run_statistics import RANK_BANDS, count_statistics, merge, slate_statistics
from rayrec.reporting.evaluation_views import comparison
from rayrec.reporting.guardrails import guardrails
from rayrec.reporting.html_report import read_report, render, shorten, write_report
from rayrec.reporting.report_data import EXAMPLE, ReportData
from rayrec.reporting.run_views import categories, overlaps, rules, sources
from rayrec.storage import Storage

VOID = {"meta", "br", "rect", "path", "polyline", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements and attributes of a page, and whether each element is closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_differences_of_arms_come_first_and_those_of_retrievers_are_folded() -> None:
    rng = np.random.default_rng(0)
    relevant = RelevantItems(
        pa.array([f"u{n:03d}" for n in range(60)]), pa.array(["a", "b", "c"]), sp.csr_matrix(rng.random((60, 3)) < 0.5)
    )
    systems = []
    for name in ("ease", "item_knn", "control", "llm"):
        items = rng.permuted(np.tile(np.array(["a", "b", "c"]), (60, 1)), axis=1).ravel()
        columns = {
            "user_id": np.repeat(relevant.user_id.to_pylist(), 3),
            "rank": np.tile([1, 2, 3], 60),
            "item_id": items,
        }
        table = pa.table({key: pa.chunked_array([pa.array(column)]) for key, column in columns.items()})
        systems.append(user_metrics(name, table, relevant))
    tables = [
        compare(systems[:2], seed=0, baselines=["ease"], resamples=50),
        compare([systems[0], *systems[2:]], seed=0, baselines=["ease"], resamples=50),
        compare(systems[2:], seed=0, baselines=["control"], resamples=50),
    ]
    found = comparison(pa.concat_tables(tables), "control")
    assert found is not None
    pairs = [(row["name"], row["baseline"]) for row in found["differences"]]
    assert set(pairs) == {("llm", "control"), ("control", "ease"), ("llm", "ease")}
    assert pairs[0] == ("llm", "control")
    assert {row["name"] for row in found["retriever_differences"]} == {"item_knn"}


def test_a_script_in_any_text_stays_text() -> None:
    page = Page(render(full()))
    assert not {"script", "img", "iframe", "object", "link"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "".join(page.text).count(HOSTILE) >= 6


def test_the_page_makes_no_network_requests() -> None:
    html = render(full())
    assert not [
        value for name, value in Page(html).attributes if name in ("src", "href") and not (value or "").startswith("#")
    ]
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


@pytest.mark.parametrize("data", [full(), bare()], ids=["full", "bare"])
def test_every_element_is_closed_and_every_section_is_there(data: ReportData) -> None:
    page = Page(render(data))
    assert page.open == []
    targets = {value for name, value in page.attributes if name == "id"}
    assert {value[1:] for name, value in page.attributes if name == "href" and value} <= targets


def test_a_report_without_data_says_so() -> None:
    text = "".join(Page(render(bare())).text)
    for line in ("not published", "61% of the rows", "Nothing was removed", "no earlier published date"):
        assert line in text
    assert "Not evaluated yet" in text


def test_the_stored_data_renders_the_same_page(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    path = write_report(full(), storage)
    again = read_report(storage, "2026-03-02")
    assert again == full()
    assert Path(path).read_text(encoding="utf8") == render(again)


def test_a_report_of_another_version_is_an_error() -> None:
    with pytest.raises(DataError, match="of another version of rayrec"):
        ReportData.from_json(b'{"name": "x"}', "reports/dt=2026-03-02/report.json")


def test_titles_are_shortened_and_control_characters_replaced() -> None:
    assert shorten("a\x1b[31mb\u202e") == "a\ufffd[31mb\ufffd"
    assert len(shorten("x" * 10_000_000)) == 120
    assert shorten(None) == ""


def test_a_table_with_other_columns_is_an_error() -> None:
    with pytest.raises(ValueError, match="timings"):
        ReportData(**{**bare().__dict__, "timings": bare().statistics})


def test_a_report_of_eight_arms_is_under_two_megabytes() -> None:
    arms = tuple(f"arm-{number}" for number in range(8))
    table, item_id, category = slates(users=200, items=2000, size=50, arms=arms)
    summary = slate_statistics(table, item_id, category)
    truth = RelevantItems.from_pairs(
        pa.array([f"user-{n}" for n in range(200)]), item_id.take(pa.array(np.arange(200))), item_id
    )
    measured = [user_metrics(arm, table.filter(pa.compute.equal(table["arm"], arm)), truth) for arm in arms]
    rows = [compare(measured, seed=0, baselines=["arm-0"], resamples=100)]
    for number in range(17):  # the largest number of segments
        chosen = [one.take(np.arange(100)) for one in measured]
        rows.append(compare(chosen, seed=0, baselines=["arm-0"], segment=f"segment {number}", resamples=100))
    people = [(f"user-{n // 300}", f"arm-{n % 8}", n, "A title of great length " * 4, "ease", "") for n in range(3000)]
    data = dataclasses.replace(
        full(),
        arms=dict.fromkeys(arms, "x" * 400),
        statistics=summary,
        comparison=pa.concat_tables(rows),
        baseline="arm-0",
        examples=table_of(EXAMPLE, people),
    )
    assert len(render(data).encode()) < 2_000_000


def test_the_guardrails_of_the_run_are_shown_with_their_action() -> None:
    rails = {rail.name: rail for rail in guardrails(full())}
    assert rails["users with a slate"].action == "blocks the publication"
    assert rails["users with a slate"].passed is False
    assert rails["drift from the previous date"].action == "warns"
    assert rails["coverage of the catalogue, llm"].action == "report only"
    text = " ".join(Page(render(full())).text)
    for shown in ("blocks the publication", "93.0% of 43 eligible users", "? unknown", "✗ check"):
        assert shown in text


def test_an_unknown_drift_is_said_in_its_section() -> None:
    why = "that date has no report"
    data = dataclasses.replace(full(), previous_date=date(2026, 2, 27), drift_unavailable=why)
    text = "".join(Page(render(data)).text)
    assert f"Drift since 2026-02-27, the previous published date, is unknown: {why}" in text


def test_a_report_from_before_the_guardrails_is_read() -> None:
    content = json.loads(full().to_json())
    del content["guardrails"]
    content["max_quarantine_share"] = 0.05
    again = ReportData.from_json(json.dumps(content).encode(), "report.json")
    assert again == dataclasses.replace(full(), guardrails=full().guardrails.slice(0, 0))


def test_an_arm_has_the_same_place_and_colour_in_every_section() -> None:
    """Statistics are sorted by name; the report has the config's order of arms."""
    keys = {"category": "tins", "source": f"ease/{RANK_BANDS[0][2]}"}
    summary = merge(count_statistics(name, {arm: {key: 1} for arm in "bmz"}) for name, key in keys.items())
    assert list(categories(summary, ["z", "m", "b", "empty"])["shares"]) == ["z", "m", "b"]
    assert [row["arm"] for row in sources(summary, ["z", "m", "b", "empty"])["rows"]] == ["z", "m", "b"]


def test_a_report_without_timings_shows_no_total() -> None:
    without = dataclasses.replace(full(), timings=full().timings.slice(0, 0))
    assert "total stage time" in render(full())
    assert "total stage time" not in render(without)


def test_split_arms_have_no_overlap_and_rules_count_the_slates_of_each_arm() -> None:
    table, item_id, category = slates(users=40)
    number = pc.cast(pc.replace_substring(table["user_id"], "user-", ""), pa.int64())
    apart = table.filter(pc.equal(pc.less(number, 20), pc.equal(table["arm"], "control")))
    report = full("shop")
    summary = merge([slate_statistics(apart, item_id, category), changed_slates()])
    report = dataclasses.replace(report, statistics=summary)
    assert overlaps(summary) == []
    assert [(row["arm"], row["count"], row["share"]) for row in rules(report)] == [("llm", 12, 0.6), ("llm", 3, 0.15)]


@pytest.mark.parametrize(("fewer", "passed"), [(1.0, False), (0.95, False), (0.5, None)])
def test_coverage_is_compared_between_arms_of_about_as_many_users(fewer: float, passed: bool | None) -> None:
    rows = [row for row in full().comparison.to_pylist() if row["metric"] == COVERAGE]
    users = {"control": 40, "llm": int(40 * fewer)}
    loss = {"relative": -0.25, "relative_low": -0.3, "relative_high": -0.2}
    rows = [{**row, "users": users[row["system"]]} | (loss if row["baseline"] else {}) for row in rows]
    data = dataclasses.replace(full(), comparison=pa.Table.from_pylist(rows, COMPARISON))
    (rail,) = [rail for rail in guardrails(data) if rail.name == "coverage of the catalogue, llm"]
    assert rail.passed is passed
