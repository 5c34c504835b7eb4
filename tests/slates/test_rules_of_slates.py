"""Rules, pins and the fallback: what holds for every slate, rule counts, exact propensities."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from made_slates import KNOWN, codes_of, stage, without_candidates
from pydantic import ValidationError
from scored_candidates import candidates, items

from rayrec.config import Rules as RulesSection
from rayrec.config import Slate
from rayrec.errors import ConfigError
from rayrec.numerics.ragged import Ragged
from rayrec.publishing.published_tables import validate_slates
from rayrec.slates import POLICIES, CatalogueItems
from rayrec.slates.assembly import check_slate
from rayrec.slates.rule_counts import rule_effects
from rayrec.slates.slate_rules import unresolved_ids

POLICY_NAMES = sorted(POLICIES)
PINS = [{"item_id": "item 007", "rank": 1}, {"item_id": "item 011", "rank": 4}]


def slates(table: pa.Table | None = None, known: CatalogueItems = KNOWN, **slate: Any) -> pa.Table:
    return stage(known, **slate)(candidates() if table is None else table, "llm")


def test_default_rules_change_nothing() -> None:
    assert slates(rules={}, diversity={"method": "none"}).equals(slates())
    plain = stage()
    found = plain.candidate_pool(candidates())
    assert plain.apply_rules(found) is found
    assert found.scored.scores is found.blend_scores


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_blocked_item_is_in_no_slate(policy: str) -> None:
    before = Counter(code for slate in codes_of(slates()) for code in slate)
    often = [code for code, _ in before.most_common(3)]
    rows = slates(policy=policy, rules={"blocked": [f"item {code:03d}" for code in often]})
    assert not {code for slate in codes_of(rows) for code in slate} & set(often)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_no_slate_holds_more_of_a_category_than_the_cap(policy: str) -> None:
    rows = slates(policy=policy, rules={"max_per_category": 2})
    for slate in codes_of(rows):
        kinds = Counter(KNOWN.category[slate].tolist())
        del kinds[-1]  # items without a category are not capped
        assert max(kinds.values(), default=0) <= 2


def test_the_best_items_of_each_category_stay() -> None:
    made = stage(rules={"max_per_category": 1})
    found = made.candidate_pool(candidates())
    kept = made.rules.eligible(found.scored)
    for user in range(len(found.scored)):
        at = slice(found.blend_scores.offsets[user], found.blend_scores.offsets[user + 1])
        kind, score = KNOWN.category[found.scored.candidate[user]], found.blend_scores[user]
        for category in set(kind.tolist()) - {-1}:
            assert np.flatnonzero(kept[at] & (kind == category)) == [np.where(kind == category, score, -99).argmax()]
        assert kept[at][kind < 0].all()


def test_a_range_admits_prices_inside_it_and_handles_missing_ones() -> None:
    def prices(**band: Any) -> set[int]:
        return {code for slate in codes_of(slates(rules={"ranges": {"price": band}})) for code in slate}

    def priced(code: int) -> bool:
        return code % 4 != 0 and code % 10 != 3

    assert all(priced(code) and 2 <= code % 10 <= 5 for code in prices(min=2, max=5))
    assert all(priced(code) and code % 10 >= 6 for code in prices(min=6))
    kept = prices(max=5, missing="keep")
    assert all(not priced(code) or code % 10 <= 5 for code in kept)
    assert not all(priced(code) for code in kept)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_pinned_items_are_once_in_each_slate_at_their_ranks(policy: str) -> None:
    table = pa.concat_tables([candidates(20), without_candidates(candidates(25)).slice(20)])
    rows = slates(table, policy=policy, rules={"pinned": PINS})
    found = codes_of(rows)
    assert len(found) == 25
    for number, slate in enumerate(found):
        assert slate[0] == 7
        assert slate[min(3, len(slate) - 1)] == 11
        assert len(set(slate)) == len(slate)
        assert len(slate) == 2 if number >= 20 else len(slate) > 4
    pinned = rows.filter(pc.equal(rows["source"], "pinned"))
    assert set(pinned["propensity"].to_pylist()) == {1.0}
    assert set(pinned["score"].to_pylist()) == {0.0}
    assert pinned.num_rows == 2 * 25
    validate_slates(rows, date=stage().date, arm="llm", shard=0, shards=1)


def test_the_policy_fills_the_ranks_between_the_pins_in_its_own_order() -> None:
    plain = codes_of(slates(size=30, rules={"blocked": ["item 007", "item 011"]}))
    for insert_pins, without in zip(codes_of(slates(rules={"pinned": PINS})), plain, strict=True):
        assert [code for code in insert_pins if code not in (7, 11)] == without[: len(insert_pins) - 2]


def test_an_unavailable_pinned_item_is_left_out_and_counted() -> None:
    known = replace(KNOWN, available=np.arange(200) != 7)
    rows = slates(known=known, rules={"pinned": [*PINS, {"item_id": "gone", "rank": 2}]})
    assert all(slate[3] == 11 and 7 not in slate[:1] for slate in codes_of(rows))
    pinned = [*PINS, {"item_id": "gone", "rank": 2}]
    section = RulesSection.model_validate({"blocked": ["x", "y", "item 001"], "pinned": pinned})
    assert unresolved_ids(section, known) == {
        "blocked, unknown item": 2,
        "pinned, unknown item": 1,
        "pinned, unavailable item": 1,
    }
    assert unresolved_ids(RulesSection(), known) == {}


RULES: dict[str, Any] = {
    "blocked": [f"item {code:03d}" for code in range(40)],
    "max_per_category": 2,
    "ranges": {"price": {"max": 6, "missing": "keep"}},
    "pinned": [{"item_id": "item 150", "rank": 2}],
}


@pytest.mark.parametrize("diversity", [{}, {"method": "mmr"}])
def test_a_rule_is_counted_if_the_slate_differs_without_it(diversity: dict[str, Any]) -> None:
    made = stage(rules=RULES, diversity=diversity)
    found = made.candidate_pool(candidates())
    counts = rule_effects(made, found, made.apply_rules(found))
    whole = codes_of(made(candidates(), "llm"))
    for name in ("blocked", "max_per_category", "ranges.price", "pinned"):
        fewer = dict(RULES)
        fewer.pop(name.split(".")[0])
        other = codes_of(stage(rules=fewer, diversity=diversity)(candidates(), "llm"))
        assert counts[name] == sum(one != two for one, two in zip(whole, other, strict=True)) > 0
    open_to_all = codes_of(slates())
    assert counts["short"] == sum(len(a) < len(b) for a, b in zip(whole, open_to_all, strict=True)) > 0


def test_rules_that_change_nothing_are_counted_as_zero() -> None:
    made = stage(rules={"blocked": ["nobody"], "max_per_category": 99})
    found = made.candidate_pool(candidates())
    assert rule_effects(made, found, made.apply_rules(found)) == {"blocked": 0, "max_per_category": 0, "short": 0}
    plain = stage()
    assert rule_effects(plain, found, found) == {}


@pytest.mark.parametrize("policy", POLICY_NAMES)
@pytest.mark.parametrize("diversity", [{}, {"method": "dpp", "depth": 6}, {"method": "calibrated"}])
def test_rows_do_not_depend_on_other_users_in_the_table(policy: str, diversity: dict[str, Any]) -> None:
    fallback = {"source": "popularity", "below_events": 2}
    made = stage(items(width=64), policy=policy, rules=RULES, diversity=diversity, fallback=fallback)
    table = candidates()
    parts = [made(table.slice(start, 10), "llm") for start in range(0, 50, 10)]
    assert pa.concat_tables(parts).equals(made(table, "llm"))
    alone = [made(table.slice(user, 1), "llm") for user in range(50)]
    assert pa.concat_tables(alone).equals(made(table, "llm"))


def test_the_published_score_is_the_blended_score() -> None:
    made = stage(diversity={"method": "mmr", "settings": {"relevance": 0.2}})
    rows, found = made(candidates(), "llm"), made.candidate_pool(candidates())
    own = {
        (user, f"item {code:03d}"): score
        for number, user in enumerate(found.scored.user_ids.to_pylist())
        for code, score in zip(found.scored.candidate[number], found.blend_scores[number], strict=True)
    }
    said = zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), rows["score"].to_pylist(), strict=True)
    assert all(own[user, item] == score for user, item, score in said)
    assert not rows["item_id"].equals(slates()["item_id"])


def cold(table: pa.Table, below: int) -> list[bool]:
    return (Ragged.from_arrow(table["item"]).lengths < below).tolist()


def test_users_with_a_short_history_have_the_order_of_the_fallback() -> None:
    table = candidates()
    settings = {"fallback": {"source": "popularity", "below_events": 3}, "diversity": {"method": "mmr"}}
    rows, others = slates(table, **settings), slates(table, diversity={"method": "mmr"})
    theirs, candidate = Ragged.from_arrow(table["score.popularity"]), Ragged.from_arrow(table["candidate"])
    for user, few in enumerate(cold(table, 3)):
        name = f"user {user:04d}"
        own = rows.filter(pc.equal(rows["user_id"], name))
        if few:
            order = np.argsort(-theirs[user], kind="stable")[:10]
            assert codes_of(own)[0] == candidate[user][order].tolist()
            assert set(own["source"].to_pylist()) == {"fallback:popularity"}
        else:
            assert own.equals(others.filter(pc.equal(others["user_id"], name)))
    assert 0 < sum(cold(table, 3)) < 50


def test_rules_hold_for_the_fallback_too() -> None:
    rows = slates(fallback={"source": "popularity", "below_events": 99}, rules={"max_per_category": 1, "pinned": PINS})
    assert set(rows["source"].to_pylist()) == {"fallback:popularity", "pinned"}
    for slate in codes_of(rows):
        kinds = Counter(KNOWN.category[[code for code in slate if code not in (7, 11)]].tolist())
        assert max([count for kind, count in kinds.items() if kind >= 0], default=0) <= 1


@pytest.mark.parametrize(
    ("slate", "says"),
    [
        ({"fallback": {"source": "popular"}}, r"(?s)no source 'popular'.*use one of ease, popularity"),
        ({"rules": {"ranges": {"prize": {"min": 1}}}}, r"(?s)no attribute 'prize'.*known are price"),
    ],
)
def test_unknown_sources_and_attributes_are_an_error(slate: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_slate(Slate.model_validate(slate), ("ease", "popularity"), ("price",))
    check_slate(Slate.model_validate({"rules": {"ranges": {"price": {"max": 3}}}}), ("ease",), ("price",))


@pytest.mark.parametrize(
    ("slate", "says"),
    [
        ({"rules": {"pinned": [*PINS, {"item_id": "x", "rank": 4}]}}, "an item or a rank twice"),
        ({"rules": {"pinned": PINS, "blocked": ["item 007"]}}, "'item 007' is both pinned and blocked"),
        ({"size": 3, "rules": {"pinned": PINS}}, "'item 011' is pinned beyond the slate's size, 3"),
        ({"size": 1, "rules": {"pinned": PINS[:1]}}, "leave at least one rank"),
        ({"rules": {"ranges": {"price": {}}}}, "needs min, max or both"),
        ({"rules": {"ranges": {"price": {"min": 3, "max": 1}}}}, "min 3 is above max 1"),
        ({"rules": {"ranges": {"price": {"min": float("nan")}}}}, "finite number"),
        ({"rules": {"max_per_category": 0}}, "greater than or equal to 1"),
        ({"rules": {"max_per_categroy": 2}}, "unknown key"),
    ],
)
def test_invalid_rules_are_an_error(slate: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Slate.model_validate(slate)
