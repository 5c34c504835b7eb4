"""The facet bonus: an item's score changes by its named facets alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from small_model import INSTRUCTION, KNOWN

from rayrec.data.schemas import ITEM
from rayrec.instructions.facet_matching import FacetMatches
from rayrec.instructions.facet_scheme import CATEGORY, DECADE, FacetScheme
from rayrec.instructions.facets import Facets
from rayrec.reranking.engines.engine import Engine
from rayrec.reranking.item_token.item_token_ranker import ItemTokenRanker
from rayrec.reranking.item_token.prompt_layout import MICROSECONDS_PER_DAY
from rayrec.reranking.item_token.request_guidance import FACET_MATCH_WEIGHT, FacetMatchScore
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

NOW = 100 * MICROSECONDS_PER_DAY
COMEDY, WAR, NINETIES = range(3)
SCHEME = FacetScheme((CATEGORY, CATEGORY, DECADE), ("comedy", "war", "1990s"), {"year": DECADE})


def catalogue() -> pa.Table:
    """300 items: every third is a comedy, every fifth a war film, every seventh from the 1990s."""
    rows = [
        {
            "item_id": f"i{code:03}",
            "title": f"Thing {code}",
            "category": "|".join(name for name, step in (("comedy", 3), ("war", 5)) if code % step == 0),
            "available": True,
            "attributes": [("year", "2001" if code % 7 else "1994")],
        }
        for code in range(300)
    ]
    return pa.Table.from_pylist(rows, ITEM)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (FacetMatches(), [0, 0, 0, 0]),
        (FacetMatches((COMEDY,)), [1, 1, 0, 0]),
        (FacetMatches((COMEDY, NINETIES)), [2, 1, 0, 1]),
        (FacetMatches((COMEDY,), (WAR,)), [0, 1, -1, 0]),
    ],
)
def test_included_facets_add_and_excluded_facets_subtract(named: FacetMatches, expected: list[int]) -> None:
    codes = np.array([105, 3, 5, 7])  # 105 = 3 x 5 x 7
    np.testing.assert_allclose(
        FacetMatchScore(Facets.of(catalogue(), SCHEME)).score_bonus(named, codes),
        np.array(expected) * FACET_MATCH_WEIGHT,
    )


def given(requests: list[str | None], asks: list[str | None] | None = None) -> pa.Table:
    """Rows with one history and the same candidates, the last of which is unknown to the model."""
    many = len(requests)
    history = [int(KNOWN[code][1:]) for code in (3, 5, 8)]
    rows = {
        "user_id": [f"u{row}" for row in range(many)],
        "item": pa.array([history] * many, pa.list_(pa.int32())),
        "ts": pa.array([[NOW - MICROSECONDS_PER_DAY] * 3] * many, pa.list_(pa.int64())),
        "candidate": pa.array([[0, 30, 2, 3]] * many, pa.list_(pa.int32())),
        "instruction": pa.array(requests if asks is None else asks, pa.string()),
        "request": pa.array(requests, pa.string()),
    }
    return pa.table(rows)


def scores(engine: Engine, model: LocalCheckpoint, table: pa.Table, scheme: FacetScheme | None = SCHEME) -> np.ndarray:
    tuned = replace(model, card=replace(model.card, facets=scheme))
    found = ItemTokenRanker(engine, tuned, catalogue(), INSTRUCTION, NOW)(table)
    return np.array(found["llm_score"].to_pylist(), np.float32)


def test_reranker_scores_change_by_the_named_facets(reference_engine: Engine, small_model: LocalCheckpoint) -> None:
    table = given(["a comedy, no war", "a comedy", None])
    moved = scores(reference_engine, small_model, table) - scores(reference_engine, small_model, table, None)
    # Items 0 and 30 are comedies and war films.
    expected = np.array([[0, 0, 0], [1, 1, 0], [0, 0, 0]]) * FACET_MATCH_WEIGHT
    np.testing.assert_allclose(moved[:, :3], expected, atol=1e-4)
    assert np.isnan(moved[:, 3]).all()


def test_rows_with_equal_prompts_but_other_facets_differ(
    reference_engine: Engine, small_model: LocalCheckpoint
) -> None:
    """The prompts are equal, because the model knows none of the words; the facets differ."""
    same = ["what I ask"] * 2
    comedy, war = scores(reference_engine, small_model, given(["comedy", "no war"], same))
    plain = scores(reference_engine, small_model, given(["comedy", "no war"], same), None)
    np.testing.assert_array_equal(plain[0], plain[1])
    np.testing.assert_allclose(comedy[0] - war[0], 2 * FACET_MATCH_WEIGHT, atol=1e-4)
    np.testing.assert_array_equal(comedy[2], war[2])


def test_profile_text_gives_no_facet_bonus(reference_engine: Engine, small_model: LocalCheckpoint) -> None:
    table = given([None], ["likes comedy"])
    np.testing.assert_array_equal(
        scores(reference_engine, small_model, table), scores(reference_engine, small_model, table, None)
    )
