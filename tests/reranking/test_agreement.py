"""What a request names is weighed as sets: an item's score moves by the facets that it has, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from small_model import INSTRUCTION, KNOWN

from rayrec.contracts.schemas import ITEM
from rayrec.instructions.facet_scheme import CATEGORY, DECADE, FacetScheme
from rayrec.instructions.facets import Facets
from rayrec.instructions.naming import Named
from rayrec.reranking.actor import Reranker, RerankSpec
from rayrec.reranking.agreement import AGREES, Agreement
from rayrec.reranking.artefact import LocalModel
from rayrec.reranking.base import Engine
from rayrec.reranking.prompt import DAY_US

NOW = 100 * DAY_US
COMEDY, WAR, NINETIES = range(3)
SCHEME = FacetScheme((CATEGORY, CATEGORY, DECADE), ("comedy", "war", "1990s"), {"year": DECADE})


def catalogue() -> pa.Table:
    """Of its 300 items every third is a comedy, every fifth a war film, and every seventh is of the 1990s."""
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
        (Named(), [0, 0, 0, 0]),
        (Named((COMEDY,)), [1, 1, 0, 0]),
        (Named((COMEDY, NINETIES)), [2, 1, 0, 1]),
        (Named((COMEDY,), (WAR,)), [0, 1, -1, 0]),
    ],
)
def test_each_facet_counts_for_or_against(named: Named, expected: list[int]) -> None:
    codes = np.array([105, 3, 5, 7])  # 105 = 3 x 5 x 7
    np.testing.assert_allclose(
        Agreement(Facets.of(catalogue(), SCHEME)).lift(named, codes), np.array(expected) * AGREES
    )


def given(requests: list[str | None], asks: list[str | None] | None = None) -> pa.Table:
    """Rows of one history and the same candidates, the last of which the model does not know."""
    many = len(requests)
    history = [int(KNOWN[code][1:]) for code in (3, 5, 8)]
    rows = {
        "user_id": [f"u{row}" for row in range(many)],
        "item": pa.array([history] * many, pa.list_(pa.int32())),
        "ts": pa.array([[NOW - DAY_US] * 3] * many, pa.list_(pa.int64())),
        "candidate": pa.array([[0, 30, 2, 3]] * many, pa.list_(pa.int32())),
        "ask": pa.array(requests if asks is None else asks, pa.string()),
        "request": pa.array(requests, pa.string()),
    }
    return pa.table(rows)


def scores(engine: Engine, model: LocalModel, table: pa.Table, scheme: FacetScheme | None = SCHEME) -> np.ndarray:
    tuned = replace(model, card=replace(model.card, facets=scheme))
    found = Reranker(engine, tuned, catalogue(), RerankSpec(INSTRUCTION, NOW))(table)
    return np.array(found["score.llm"].to_pylist(), np.float32)


def test_the_rerankers_scores_move_by_what_a_request_names(reference_engine: Engine, small_model: LocalModel) -> None:
    table = given(["a comedy, no war", "a comedy", None])
    moved = scores(reference_engine, small_model, table) - scores(reference_engine, small_model, table, None)
    expected = np.array([[0, 0, 0], [1, 1, 0], [0, 0, 0]]) * AGREES  # 0 and 30 are comedies and war films
    np.testing.assert_allclose(moved[:, :3], expected, atol=1e-4)
    assert np.isnan(moved[:, 3]).all()


def test_rows_that_read_alike_but_name_other_things_differ(reference_engine: Engine, small_model: LocalModel) -> None:
    """The prompt is the same, for the model was taught none of the words; what is named is not."""
    same = ["what I ask"] * 2
    comedy, war = scores(reference_engine, small_model, given(["comedy", "no war"], same))
    plain = scores(reference_engine, small_model, given(["comedy", "no war"], same), None)
    np.testing.assert_array_equal(plain[0], plain[1])
    np.testing.assert_allclose(comedy[0] - war[0], 2 * AGREES, atol=1e-4)
    np.testing.assert_array_equal(comedy[2], war[2])


def test_what_is_only_preferred_is_not_weighed(reference_engine: Engine, small_model: LocalModel) -> None:
    table = given([None], ["likes comedy"])
    np.testing.assert_array_equal(
        scores(reference_engine, small_model, table), scores(reference_engine, small_model, table, None)
    )
