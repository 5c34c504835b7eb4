"""Feedback on published slates: matching with reasons, and estimates of an arm from other arms' slates."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks.enumerated_world import World, make
from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY, FEEDBACK, SLATE
from rayrec.errors import DataError
from rayrec.evaluation.off_policy.arm_estimates import OFF_POLICY_ESTIMATES, estimate_arms
from rayrec.evaluation.off_policy.feedback_evaluation import MATCHED, UNMATCHED, exposed_rows, match_published
from rayrec.numerics.hashing import hash_strings

DAY = datetime.date(2026, 11, 20)


def slates(*rows: tuple[str, int, str, float]) -> pa.Table:
    """SLATE rows of arm `llm`; the user is the slate's first letter."""
    full = [
        (DAY, "llm", slate, f"user {slate[0]}", rank, item, 0.0, "ease", propensity)
        for slate, rank, item, propensity in rows
    ]
    return pa.Table.from_pylist([dict(zip(SLATE.names, row, strict=True)) for row in full], SLATE)


def feedback(*rows: tuple[str, int, str, float]) -> pa.Table:
    names = ("slate_id", "rank", "item_id", "propensity")
    given = {"impression_id": "", "reward": 1.0}
    return pa.Table.from_pylist([{**dict(zip(names, row, strict=True)), **given} for row in rows], FEEDBACK)


PUBLISHED = slates(("s", 1, "a", 0.5), ("s", 2, "b", 0.25), ("t", 1, "b", 1.0), ("t", 2, "c", 1.0))


def test_feedback_on_published_slates_gains_user_and_arm_by_slate_and_rank() -> None:
    given = feedback(("t", 1, "b", 1.0), ("s", 2, "b", 0.25), ("s", 1, "a", 0.500001))
    matched, unmatched = match_published(given, PUBLISHED)
    assert matched.schema == MATCHED
    assert unmatched.schema == UNMATCHED
    assert unmatched.num_rows == 0
    rows = matched.select(["slate_id", "rank", "item_id", "reward", "user_id"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("t", 1, "b", 1.0, "user t"),
        ("s", 1, "a", 1.0, "user s"),
        ("s", 2, "b", 1.0, "user s"),
    ]
    assert set(matched["arm"].to_pylist()) == {"llm"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("x", 1, "a", 0.5), "unknown_slate"),
        (("t", 1, "a", 1.0), "item_mismatch"),
        (("t", 3, "d", 1.0), "item_mismatch"),
        (("t", 1, "b", 0.9998), "propensity_mismatch"),
    ],
)
def test_feedback_that_does_not_match_has_a_reason(row: Any, reason: str) -> None:
    matched, unmatched = match_published(feedback(("s", 1, "a", 0.5), row), PUBLISHED)
    assert matched["slate_id"].to_pylist() == ["s"]
    assert unmatched.select(["slate_id", "rank", "reason"]).to_pylist() == [
        {"slate_id": row[0], "rank": row[1], "reason": reason}
    ]


def test_a_slate_with_one_mismatch_is_left_out_whole() -> None:
    matched, unmatched = match_published(feedback(("s", 1, "z", 0.5), ("s", 2, "b", 0.25)), PUBLISHED)
    assert matched.num_rows == 0
    assert unmatched["reason"].to_pylist() == ["item_mismatch", "incomplete_slate"]


def test_ranks_that_a_viewport_did_not_log_are_those_of_the_published_slate_without_reward() -> None:
    three = pa.concat_tables([PUBLISHED, slates(("s", 3, "c", 0.5), ("s", 4, "d", 0.5))])
    seen = pa.Table.from_pylist(
        [
            {"slate_id": "s", "impression_id": view, "rank": rank, "item_id": item, "reward": 1.0, "propensity": None}
            for view, rank, item in (("v", 0, "c"), ("v", 1, "a"), ("w", 1, "a"))
        ],
        FEEDBACK,
    )
    matched, unmatched = match_published(seen, three)
    assert unmatched.num_rows == 0
    rows = matched.select(["impression_id", "rank", "item_id", "reward", "propensity"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("v", 1, "a", 1.0, 0.5),
        ("v", 2, "b", 0.0, 0.25),
        ("v", 3, "c", 1.0, 0.5),
        ("w", 1, "a", 1.0, 0.5),
    ]


def test_two_showings_of_one_slate_are_two_observations_of_one_user() -> None:
    matched, targets = logged(make("cascade", 0), 400, 3)
    again = matched.set_column(1, MATCHED.field(1), pa.array(["2nd"] * matched.num_rows))
    once, twice = (by_estimator(estimate_arms(t, targets)) for t in (matched, pa.concat_tables([matched, again])))
    for name, row in twice.items():
        assert row["slates"] == 2 * once[name]["slates"]
        assert row["value"] == pytest.approx(once[name]["value"], abs=0.02)
        assert row["standard_error"] == pytest.approx(once[name]["standard_error"], rel=0.05)  # clustered by user


def test_a_slate_that_the_frontend_altered_counts_in_the_live_experiment_alone() -> None:
    given = feedback(("s", 1, "z", 0.5), ("t", 1, "b", 1.0), ("x", 1, "a", 0.5))
    matched, unmatched = match_published(given, PUBLISHED)
    rows = exposed_rows(matched, unmatched, PUBLISHED).to_pylist()
    assert sorted((row["user_id"], row["arm"], row["reward"]) for row in rows) == [
        ("user s", "llm", 1.0),
        ("user t", "llm", 1.0),
    ]


def test_no_feedback_matches_nothing() -> None:
    matched, unmatched = match_published(FEEDBACK.empty_table(), PUBLISHED)
    assert matched.num_rows == unmatched.num_rows == 0
    assert estimate_arms(matched, COUNTERFACTUAL_PROPENSITY.empty_table()).equals(OFF_POLICY_ESTIMATES.empty_table())


def test_a_slate_given_twice_is_an_error() -> None:
    with pytest.raises(DataError, match="given twice"):
        match_published(feedback(("s", 1, "a", 0.5)), pa.concat_tables([PUBLISHED, PUBLISHED]))


def logged(
    world: World, users: int, seed: int, arm: str = "chance", lengths: tuple[int, ...] = ()
) -> tuple[pa.Table, pa.Table]:
    """MATCHED of one arm and COUNTERFACTUAL_PROPENSITY of the world's target, rows shuffled."""
    rng = np.random.default_rng([seed, 4])
    contexts, many, ranks = world.mean.shape
    chance = world.logging.prod(axis=2)
    context = rng.integers(contexts, size=users)
    slate = (rng.random(users)[:, None] > np.cumsum(chance, axis=1)[context]).sum(axis=1).clip(max=many - 1)
    reward = rng.random((users, ranks)) < world.mean[context, slate]
    row, column = np.indices((users, ranks)).reshape(2, -1)
    order = rng.permutation(len(row))
    if lengths:
        order = order[column[order] < np.resize(lengths, users)[row[order]]]
    row, column = row[order], column[order]
    names = pa.array([f"{arm} {number}" for number in row])
    rank = pa.array((column + 1).astype(np.int16))
    items = pa.array([str(item) for item in world.slates[slate[row], column]])
    given = pa.array(reward[row, column].astype(np.float32))
    logging = pa.array(world.logging[context, slate][row, column].astype(np.float32))
    owners = [pa.array([f"user {number}" for number in row]), pa.repeat(pa.scalar(arm), len(row))]
    blank = pa.repeat(pa.scalar(""), len(row))
    matched = pa.table([names, blank, rank, items, given, logging, *owners], schema=MATCHED)
    above = pa.array(world.target[context, slate][row, column].astype(np.float32))
    supported = pa.array(np.zeros(len(row), np.float32))
    columns = [
        names,
        rank,
        other_arm(len(row)),
        above,
        supported,
        drawn(world, context, slate, seed).take(pa.array(order)),
        pa.array(world.target_marginal[context, slate][row, column].astype(np.float32)),
        pa.array(world.logging_marginal[context, slate][row, column].astype(np.float32)),
    ]
    return matched, pa.table(columns, schema=COUNTERFACTUAL_PROPENSITY)


def drawn(world: World, context: Any, slate: Any, seed: int) -> pa.ListArray:
    """Four draws from the target at each rank of each slate, as COUNTERFACTUAL_PROPENSITY stores them."""
    chance = world.target_items[context, slate].reshape(-1, world.target_items.shape[3])
    points = np.random.default_rng([seed, 5]).random((len(chance), 4))
    code = (points[:, :, None] > np.cumsum(chance, axis=1)[:, None, :]).sum(axis=2).clip(max=chance.shape[1] - 1)
    hashes = hash_strings(pa.array([str(item) for item in range(chance.shape[1])]))
    return pa.array(list(hashes[code]), COUNTERFACTUAL_PROPENSITY.field("drawn").type)


def other_arm(rows: int) -> pa.DictionaryArray:
    """The column `target_arm`."""
    names = pa.repeat(pa.scalar("other"), rows).dictionary_encode()
    return names.cast(COUNTERFACTUAL_PROPENSITY.field("target_arm").type)


def with_prefix(table: pa.Table, prefix: str) -> pa.Table:
    """The same rows with other slate ids."""
    return table.set_column(0, table.schema.field(0), pc.binary_join_element_wise(prefix, table["slate_id"], ""))


def by_estimator(table: pa.Table, target: str = "other") -> dict[str, dict[str, Any]]:
    return {row["estimator"]: row for row in table.to_pylist() if row["target_arm"] == target}


def test_the_value_of_another_arm_is_estimated_from_stored_columns() -> None:
    world = make("cascade", 0)
    matched, targets = logged(world, 20_000, 0)
    table = estimate_arms(matched, targets)
    assert table.schema == OFF_POLICY_ESTIMATES
    found = by_estimator(table)
    assert set(found) == {"sn_sips", "sn_rips", "sn_iips", "cascade_dr", "cascade_dr_item", "trimmed_rips"}
    for name, row in found.items():
        if name != "sn_iips":  # right only where ranks do not interact
            assert row["low"] < world.truth < row["high"]
        assert row["slates"] == 20_000
        assert row["no_estimate_reason"] is None
        assert 1_000 < row["effective_sample_size"] < 20_000
    assert found["sn_rips"]["standard_error"] < found["sn_sips"]["standard_error"]
    own = by_estimator(table, "chance")["on_policy"]
    logging = (world.logging.prod(axis=2) * world.mean.sum(axis=2)).sum() / len(world.mean)
    assert own["low"] < logging < own["high"]
    assert own["effective_sample_size"] == 20_000


def test_intervals_of_published_arms_have_nominal_coverage() -> None:
    world = make("cascade", 0, items=4, ranks=2)
    covered = dict.fromkeys(("sn_sips", "sn_rips", "cascade_dr", "cascade_dr_item"), 0)
    for seed in range(150):
        found = by_estimator(estimate_arms(*logged(world, 300, seed)))
        for name in covered:
            covered[name] += found[name]["low"] <= world.truth <= found[name]["high"]
    assert all(0.89 <= count / 150 <= 0.99 for count in covered.values()), covered


def test_a_target_with_items_that_the_logging_arm_never_shows_has_no_estimate() -> None:
    """Without a refusal, self-normalised estimates of such arms read as "no difference"."""
    matched, targets = logged(make("cascade", 0), 2_000, 5)
    share = pa.array(np.full(targets.num_rows, 0.25, np.float32))
    found = by_estimator(estimate_arms(matched, targets.set_column(4, COUNTERFACTUAL_PROPENSITY.field(4), share)))
    bounds = found.pop("trimmed_rips")
    assert bounds["low"] < bounds["value"] < bounds["high"]  # it allows for what is missing
    for row in found.values():
        assert row["value"] is None
        assert "25% of what other shows first are items that chance never shows" in row["no_estimate_reason"]
        assert row["unsupported"] == pytest.approx(0.25)


def test_the_mean_weight_tells_of_missing_items_where_the_share_is_not_stored() -> None:
    """A quarter of the target's choices can never be logged: the logged rows lack them, so the mean weight is .75."""
    refused = 0
    for seed in range(40):
        matched, targets = logged(make("cascade", 0), 1_000, seed)
        smaller = pa.array(targets["propensity"].to_numpy() * np.float32(0.75))
        scaled = targets.set_column(3, COUNTERFACTUAL_PROPENSITY.field(3), smaller)
        rows = by_estimator(estimate_arms(matched, scaled))
        reasons = [rows[name]["no_estimate_reason"] for name in ("sn_sips", "sn_rips", "cascade_dr")]
        refused += all("mean importance weight" in str(reason) for reason in reasons)
        row = by_estimator(estimate_arms(matched, targets))["sn_rips"]
        assert row["no_estimate_reason"] is None
        assert row["mean_weight"] == pytest.approx(1, abs=0.15)
    assert refused >= 38


def test_the_logging_arm_as_target_has_its_own_value() -> None:
    world = make("cascade", 0)
    matched, _ = logged(world, 500, 1, lengths=(4, 2, 1))
    supported = pa.array(np.zeros(matched.num_rows, np.float32))
    nothing = pa.nulls(matched.num_rows, COUNTERFACTUAL_PROPENSITY.field("drawn").type)
    names = [matched[name] for name in ("slate_id", "rank", "propensity")]
    columns = [names[0], names[1], other_arm(matched.num_rows), names[2], supported, nothing, names[2], names[2]]
    targets = pa.table(columns, schema=COUNTERFACTUAL_PROPENSITY)
    table = estimate_arms(matched, targets)
    own, found = by_estimator(table, "chance")["on_policy"], by_estimator(table)
    assert found.pop("cascade_dr_item")["no_estimate_reason"].startswith("no items were drawn")
    for row in found.values():
        assert row["value"] == pytest.approx(own["value"], abs=1e-12 if row["estimator"] != "cascade_dr" else 1e-6)
        assert row["effective_sample_size"] == pytest.approx(500)
    assert found["sn_rips"]["low"] == pytest.approx(own["low"], abs=1e-12)


def test_ranks_beyond_the_depth_and_the_order_of_rows_do_not_matter() -> None:
    world = make("independent", 0)
    matched, targets = logged(world, 400, 2)
    shallow = estimate_arms(matched, targets, depth=2)
    cut = [table.filter(pa.array(table["rank"].to_numpy() <= 2)).sort_by("slate_id") for table in (matched, targets)]
    for one, other in zip(shallow.to_pylist(), estimate_arms(*cut).to_pylist(), strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-12)
        assert one["high"] == pytest.approx(other["high"], abs=1e-12)
    assert by_estimator(shallow)["sn_rips"]["value"] < by_estimator(estimate_arms(matched, targets))["sn_rips"]["value"]
    with pytest.raises(DataError, match="a depth of 0 ranks"):
        estimate_arms(matched, targets, depth=0)


def test_only_slates_with_the_target_s_propensities_at_every_rank_count() -> None:
    matched, targets = logged(make("cascade", 0), 400, 3)
    dropped = pa.array([f"chance {number}" for number in range(100)])
    first = pc.and_(pc.is_in(targets["slate_id"], dropped), pc.equal(targets["rank"], 1))
    part = targets.filter(pc.invert(first))
    kept = matched.filter(pc.invert(pc.is_in(matched["slate_id"], dropped)))
    found = by_estimator(estimate_arms(matched, part))
    expected = by_estimator(estimate_arms(kept, targets))
    for name, row in found.items():
        assert row["slates"] == 300
        assert row["value"] == pytest.approx(expected[name]["value"], abs=1e-12)


def test_a_target_without_an_estimate_has_the_reason_in_its_row() -> None:
    matched, targets = logged(make("cascade", 0), 200, 4)
    fixed = matched.set_column(6, MATCHED.field(6), matched["user_id"])
    rows = fixed.num_rows
    greedy = fixed.set_column(5, MATCHED.field(5), pa.array(np.ones(rows, np.float32)))
    greedy = greedy.set_column(7, MATCHED.field(7), pa.repeat(pa.scalar("greedy"), rows))
    never = targets.set_column(3, COUNTERFACTUAL_PROPENSITY.field(3), pa.array(np.zeros(rows, np.float32)))
    few = [
        table.filter(pc.is_in(table["slate_id"], pa.array(["chance 1", "chance 2"]))) for table in (matched, targets)
    ]
    cases = {
        "is deterministic": (greedy, targets),
        "the slates are deterministic": (matched, targets.slice(0, 0)),
        "every weight is 0": (matched, never),
        "below 30": tuple(few),
    }
    for says, (given, offered) in cases.items():
        if not offered.num_rows:  # the target is known from another arm's slates
            given = pa.concat_tables([given, with_prefix(greedy, "g ")])
        table = estimate_arms(given, offered).to_pylist()
        refused = [row for row in table if row["estimator"] in ("sn_sips", "sn_rips", "cascade_dr")]
        assert len(refused) >= 3
        for row in refused:
            assert says in row["no_estimate_reason"]
            assert row["value"] is row["low"] is row["standard_error"] is None
        assert all(row["value"] is not None for row in table if row["estimator"] == "on_policy")


def test_slates_of_one_user_are_not_independent() -> None:
    matched, targets = logged(make("cascade", 0), 400, 5)
    doubled = [pa.concat_tables([table, with_prefix(table, "2 ")]) for table in (matched, targets)]
    once, twice = by_estimator(estimate_arms(matched, targets)), by_estimator(estimate_arms(*doubled))
    for name, row in twice.items():
        assert row["slates"] == 800
        # The item's model is shrunk less with more rows, and the cap of the trimmed weights grows.
        same = 1e-9 if name not in ("cascade_dr_item", "trimmed_rips") else 0.02
        assert row["standard_error"] == pytest.approx(once[name]["standard_error"], rel=same)
