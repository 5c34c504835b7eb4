"""Pooled dates: one date is the evaluation of that date, and a date that is given twice adds no certainty."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_shop import CONF, PublishedShop, publish_shop
from typer.testing import CliRunner

from jobs import evaluate as evaluate_job
from rayrec.errors import DataError
from rayrec.evaluation import pooled_dates
from rayrec.evaluation.evaluation_job import evaluate
from rayrec.evaluation.pooled_dates import pool_dates
from rayrec.evaluation.session_metrics import NUM

USERS = 80


@pytest.fixture(scope="module", params=["all", "split"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PublishedShop:
    assignment = (f"arms.assignment={request.param}",)
    return publish_shop(tmp_path_factory.mktemp(request.param), users=USERS, arms=assignment)


def values(found: Any, names: tuple[str, ...] = ("value", "low", "high", "p")) -> dict[Any, list[float]]:
    """By system and metric, without NUM: its sessions are longer where there are more dates."""
    return {
        (row["system"], row["metric"]): [row[name] for name in names]
        for row in found.comparison.to_pylist()
        if row["baseline"] == "control" and not row["segment"] and row["metric"] != NUM
    }


def test_one_date_is_judged_as_by_its_own_evaluation(published: PublishedShop) -> None:
    day = published.shop.date
    one, pooled = evaluate(published.config, day, 7), pool_dates(published.config, [day], 7)
    assert pooled.metric == one.slates.decision_metric
    assert pooled.users == pooled.observations == one.slates.users
    assert pooled.left_out == 0
    alone = values(one.slates, ("value",))
    for key, value in values(pooled, ("value",)).items():
        assert value == pytest.approx(alone[key], nan_ok=True), key
    assert NUM in pooled.comparison["metric"].to_pylist()
    assert pooled.decision is not None
    assert one.decision is not None
    assert pooled.decision.conclusions[0].conclusion == one.decision.conclusions[0].conclusion


def test_a_date_that_is_given_twice_adds_no_certainty(
    published: PublishedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of one user on two dates are not two users'."""
    day = published.shop.date
    once = pool_dates(published.config, [day], 7)
    measured = pooled_dates._measured(published.config, day, 7)
    monkeypatch.setattr(pooled_dates, "_measured", lambda *_: measured)
    twice = pool_dates(published.config, [day, day + timedelta(days=1)], 7)
    assert (twice.users, twice.observations) == (once.users, 2 * once.observations)
    for key, row in values(
        twice,
        (
            "value",
            "p",
        ),
    ).items():
        assert row[0] == pytest.approx(values(once)[key][0])
    widths = [np.array([row[2] - row[1] for row in values(each).values()]) for each in (once, twice)]
    np.testing.assert_allclose(widths[1], widths[0], rtol=0.1)
    (by_day,) = twice.by_day
    assert by_day.trend is None
    assert {effect.day for effect in by_day.days} <= {0, 1}


def test_users_of_several_arms_are_left_out_of_a_split(
    published: PublishedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = published.shop.date
    measured = pooled_dates._measured(published.config, day, 7)
    if measured.published.shares_users:
        return
    one, other = measured.arms
    moved = [replace(one, rows=np.sort(np.append(one.rows[1:], other.rows[0]))), replace(other, rows=other.rows)]
    later = replace(measured, arms=moved)
    given = iter([measured, later])
    monkeypatch.setattr(pooled_dates, "_measured", lambda *_: next(given))
    found = pool_dates(published.config, [day, day + timedelta(days=1)], 7)
    assert found.left_out == 1
    assert found.users == USERS - 1


def test_dates_with_other_arms_are_not_pooled(published: PublishedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = pooled_dates._measured(published.config, published.shop.date, 7)
    manifest = replace(measured.published.manifest, arms=("control", "other"))
    given = iter([measured, replace(measured, published=replace(measured.published, manifest=manifest))])
    monkeypatch.setattr(pooled_dates, "_measured", lambda *_: next(given))
    with pytest.raises(DataError, match="has other arms"):
        pool_dates(published.config, [published.shop.date, published.shop.date + timedelta(days=1)], 7)
    with pytest.raises(DataError, match="no date of the period is published"):
        pool_dates(published.config, [], 7)


def test_the_job_judges_the_published_dates_of_a_period(published: PublishedShop) -> None:
    day = published.shop.date
    sets = [word for one in published.sets for word in ("--set", one)]
    period = ["--from", str(day - timedelta(days=3)), "--to", str(day + timedelta(days=3))]
    result = CliRunner().invoke(evaluate_job.main, ["--config", str(CONF), *sets, *period])
    assert result.exit_code == 0, result.output
    assert f"on 1 dates from {day} to {day}" in result.output
    path = Path(published.config.output.root) / f"reports/pooled/from={day}-to={day}/metrics.json"
    content = json.loads(path.read_text())
    page = html.unescape(path.with_name("report.html").read_text())
    assert content["decision"]["recommendation"] in page
    assert content["decision"]["conclusions"][0]["sentence"] in page
    assert "Effect by day" in page
    assert content["decision"]["conclusions"][0]["arm"] == "llm"
    for words in ([], ["--date", str(day), *period], period[:2]):
        refused = CliRunner().invoke(evaluate_job.main, ["--config", str(CONF), *sets, *words])
        assert refused.exit_code == 2 or "give --date, or both" in refused.output
