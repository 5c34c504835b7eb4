"""Removed events: statistics by band, explanations, and histories before and after."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.schemas import DENOISED_HISTORY, MICROSECONDS_PER_DAY
from rayrec.denoising.denoiser import REASONS
from rayrec.monitoring.removal_statistics import POPULARITY_BANDS, summarise_removals
from rayrec.monitoring.run_statistics import counts_by_arm, merge
from rayrec.numerics.popularity_bands import popularity_bands
from rayrec.reporting import run_views
from rayrec.reporting.example_users import before_after_rows
from rayrec.reporting.removal_reasons import REASON_LABELS, explain_removal
from rayrec.reporting.user_views import HistoryItem, UserView

NOW = 1_000 * MICROSECONDS_PER_DAY
EVENTS = ("view", "purchase")


def denoised() -> pa.Table:
    """Two users, one variant; age in days, event, item and reason of each event."""
    columns = {
        "user_id": ["u", "v"],
        "item": [[0, 1, 2], [3]],
        "ts": [
            [NOW - 100 * MICROSECONDS_PER_DAY, NOW - 10 * MICROSECONDS_PER_DAY, NOW - MICROSECONDS_PER_DAY // 2],
            [NOW - 7 * MICROSECONDS_PER_DAY],
        ],
        "event": [[0, 1, 0], [0]],
        "value": [[0.0] * 3, [0.0]],
        "dwell_ms": [[-1] * 3, [-1]],
        "older_items": [[], []],
        "variant": ["influence"] * 2,
        "keep_weight": [[1.0, 0.0, 0.0], [1.0]],
        "influence": [[0.5, -0.1, 0.2], [0.3]],
        "negative_influence": [[0.0, 0.02, 0.01], [0.0]],
        "reason": [[0, 3, 2], [0]],
    }
    return pa.table(columns).select(DENOISED_HISTORY.names).cast(DENOISED_HISTORY)


def test_events_are_counted_by_type_age_and_popularity_all_and_removed() -> None:
    bands = popularity_bands(np.array([1, 90, 8, 1]))
    found = summarise_removals(denoised(), EVENTS, NOW, bands)
    counts = {name: counts_by_arm(found, f"removed by {name}")["influence"] for name in ("event", "age", "popularity")}
    assert counts["event"] == {"view/all": 3, "view/removed": 1, "purchase/all": 1, "purchase/removed": 1}
    assert {key: n for key, n in counts["age"].items() if key.endswith("/all")} == {
        "under a day/all": 1,
        "7 to 28 days/all": 2,
        "older/all": 1,
    }
    assert counts["age"]["older/removed"] == 0
    assert counts["popularity"][f"{POPULARITY_BANDS[0]}/removed"] == 1
    assert counts["popularity"]["tail/all"] == 3
    parts = [summarise_removals(denoised().slice(row, 1), EVENTS, NOW, bands) for row in range(2)]
    assert merge(parts) == found


def test_popularity_bands_split_the_events_and_not_the_items() -> None:
    assert popularity_bands(np.array([5, 30, 45, 20])).tolist() == [2, 1, 0, 1]
    assert popularity_bands(np.zeros(3)).tolist() == [2, 2, 2]


def test_an_explanation_says_what_was_measured() -> None:
    row = denoised().to_pylist()[0]
    assert explain_removal(row, 0) == ""
    words = explain_removal(row, 1)
    assert words == (
        "removing it raises the score of the newest events (+0.02); "
        "the user's other 2 events together do not support it"
    )
    assert explain_removal(row, 2) == "removing it raises the score of the newest events (+0.01)"
    lonely = {**row, "reason": [0, 0, REASONS.index("inconsistent")]}
    assert explain_removal(lonely, 2) == "it fits badly: of the user's other 2 events 1 has less support"
    lowest = {**lonely, "influence": [0.5, 0.3, 0.2]}
    assert explain_removal(lowest, 2) == "it fits badly: of the user's other 2 events none has less support"
    weighed = {**lonely, "keep_weight": [1.0, 1.0, 0.25]}
    assert explain_removal(weighed, 2).endswith("; it keeps 25% weight")


@pytest.mark.parametrize("reason", REASONS[1:])
def test_every_reason_has_an_explanation_without_measurements(reason: str) -> None:
    row = {"reason": [REASONS.index(reason), 0], "keep_weight": [0.0, 1.0], "negative_influence": [None, None]}
    assert explain_removal({**row, "influence": [None, float("nan")]}, 0) == f"it {REASON_LABELS[reason]}"


def person() -> UserView:
    when = datetime(2026, 3, 1, tzinfo=UTC)
    kept = HistoryItem("Lamp", when, "view", {}, {})
    gone = HistoryItem("Tent", when, "purchase", {"ease": "inconsistent_and_negative_influence"}, {"ease": "because"})
    return UserView("u", (kept, gone, kept), {})


def test_histories_before_and_after_each_variant_that_removed_something() -> None:
    table = before_after_rows([person(), UserView("w", person().history[:1], {})])
    assert table["explanation"].to_pylist() == ["", "because", ""]
    (found,) = run_views.before_after(table)
    assert (found["user_id"], found["variant"], found["retained"]) == ("u", "ease", 2)
    assert [line["title"] for line in found["lines"]] == ["Lamp", "Tent", "Lamp"]
    assert before_after_rows([person()], events=1)["title"].to_pylist() == ["Lamp"]
