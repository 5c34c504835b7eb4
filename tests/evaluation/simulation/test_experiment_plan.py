"""Plans: more users and days find more, refusals are named, and the stated power is what the simulation finds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from jobs import plan as plan_job
from rayrec.errors import DataError
from rayrec.evaluation.simulation import experiment_plan
from rayrec.evaluation.simulation.experiment_plan import PlannedExperiment, PlanRow, calibrated, plan, shortest
from rayrec.evaluation.simulation.simulated_users import Behaviour

SMALL = PlannedExperiment(2_000, 0.1, days=(1, 4), ranks=4, items=25, temperature=1.0)


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment_plan, "REPETITIONS", 3)
    monkeypatch.setattr(experiment_plan, "SIMULATED_USERS", 800)
    monkeypatch.setattr(experiment_plan, "_CALIBRATION_USERS", 2_000)


def by_design(rows: list[PlanRow]) -> dict[tuple[str, int], PlanRow]:
    return {(row.design, row.days): row for row in rows}


def test_power_grows_with_days_and_users_and_falls_with_arms_and_looks() -> None:
    few, many = (by_design(plan(replace(SMALL, users=users))) for users in (2_000, 20_000))
    assert set(few) == {
        (design, days)
        for design in ("split", "split, any time", *(f"off-policy: {name}" for name in OFF_POLICY))
        for days in SMALL.days
    }
    for key, row in few.items():
        assert many[key].power >= row.power
        assert many[key].users_needed == pytest.approx(row.users_needed, rel=0.35)
        assert row.detectable > 0
    assert few["split", 4].detectable < few["split", 1].detectable
    assert few["off-policy: sn_rips", 4].detectable <= few["off-policy: sn_rips", 1].detectable
    assert few["split", 4].detectable < few["split, any time", 4].detectable
    more_arms = by_design(plan(replace(SMALL, arms=4)))
    assert more_arms["split", 4].detectable > 1.5 * few["split", 4].detectable


OFF_POLICY = ("cascade_dr", "cascade_dr_item", "sn_iips", "sn_rips", "sn_sips")


def test_late_rewards_are_missing_in_short_experiments() -> None:
    late = by_design(plan(replace(SMALL, behaviour=Behaviour(delay_days=2.0))))
    soon = by_design(plan(SMALL))
    assert late["split", 1].reward < 0.5 * soon["split", 1].reward
    assert late["split", 4].reward > 2 * late["split", 1].reward


def test_without_support_off_policy_designs_are_refused_and_a_floor_makes_them_known() -> None:
    rows = plan(replace(SMALL, missing=8))
    refused = [row for row in rows if row.refused]
    assert {row.design for row in refused} == {f"off-policy: {name}" for name in OFF_POLICY}
    assert all("never shows" in row.refused for row in refused)
    assert "split" in shortest(rows)
    with_floor = plan(replace(SMALL, missing=8, exploration_floor=0.5))
    assert not any("never shows" in row.refused for row in with_floor)


def test_the_baseline_has_the_clicks_that_were_asked_for() -> None:
    for clicks in (0.05, 0.6):
        asked = replace(SMALL, clicks=clicks)
        found = by_design(plan(replace(asked, effect=0.05)))["split", 1].reward
        assert found == pytest.approx(clicks, rel=0.25)
        assert calibrated(asked).appeal == calibrated(replace(asked, behaviour=calibrated(asked))).appeal


def test_an_effect_that_no_ranker_reaches_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no simulated ranker is better by 900\.0%"):
        plan(replace(SMALL, effect=9.0))


def test_the_job_prints_designs_and_the_shortest_one() -> None:
    words = ["--users", "2000", "--effect", "0.1", "--days", "2", "--ranks", "3", "--items", "25", "--missing", "9"]
    result = CliRunner().invoke(plan_job.main, words)
    assert result.exit_code == 0, result.output
    assert "users for 80%" in result.output
    assert "no estimate" in result.output
    assert result.output.strip().splitlines()[-1].startswith(("Shortest", "No design has"))
