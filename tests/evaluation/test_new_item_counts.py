"""New items: those without a positive event before the date, also outside the catalogue."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from rayrec.evaluation import new_items as module
from rayrec.evaluation.new_items import NewItems, new_items
from rayrec.monitoring.new_item_statistics import new_item_rows, new_item_statistics

ITEMS = pa.array(["known", "launch", "other launch"])
SLATES = {"a": [("u", "launch"), ("u", "known"), ("v", "launch")], "b": [("v", "known")]}


def pairs(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.table(
        {name: pa.array([row[side] for row in rows], pa.string()) for side, name in enumerate(("user_id", "item_id"))}
    )


def run(model: object) -> SimpleNamespace:
    manifest = SimpleNamespace(arms=("a", "b"), shards=1)
    return SimpleNamespace(model=model, item_id=ITEMS, manifest=manifest, storage=None)


def test_consumed_and_proposed_new_items_are_counted_once_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    published = run(SimpleNamespace(item_ids=ITEMS, count=np.array([3.0, 0.0, 0.0])))
    monkeypatch.setattr(module.PublishedRun, "open", lambda *_: published)
    monkeypatch.setattr(module, "read_shard_slates", lambda _s, _m, arm, *_: pairs(SLATES[arm]))
    consumed = pairs([("u", "launch"), ("u", "launch"), ("v", "other launch"), ("u", "known"), ("v", "nowhere")])
    found = new_items("", date(2026, 1, 1), consumed)
    assert found == NewItems(4, 3, {"a": 1, "b": 0})
    assert "3 of 4 consumed items (75.0%) were new" in str(found)
    assert str(replace(found, new=0)) == ""
    published.model = None
    assert new_items("", date(2026, 1, 1), consumed).consumed == 0


def test_new_items_in_slates_are_rows_of_the_report() -> None:
    slates = {arm: pairs(rows) for arm, rows in SLATES.items()}
    found = new_item_rows(new_item_statistics(slates, ITEMS, np.array([False, True, True])))
    assert found == [
        {"arm": "a", "proposed": 2, "share": 2 / 3, "users": 2},
        {"arm": "b", "proposed": 0, "share": 0, "users": 0},
    ]
