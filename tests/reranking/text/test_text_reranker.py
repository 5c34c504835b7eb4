"""Reranking by text: the same tables as the item-token ranker, and the candidates that are scored."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from oracle import PlainScorer
from small_tables import candidate_table

from rayrec.data.schemas import reranked_schema
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.text.text_reranker import TextReranker, reciprocal_rank_fusion
from rayrec.reranking.text.text_scorer import RankingQuery

TEXTS = tuple(f"item {code}" for code in range(10))
SOURCES = ("ease", "popularity")


def number(text: str) -> float:
    return int(text.split()[1])


def table() -> pa.Table:
    return candidate_table(
        ["a", "b", "c"],
        [[1, 2], [], [3]],
        [[4, 5, 6, 7], [8, 9], [0]],
        ease=[[0.1, 0.9, 0.5, -0.2], [0.0, 0.2], [0.3]],
        popularity=[[4.0, 1.0, 3.0, 2.0], [1.0, 2.0], [1.0]],
    )


def test_top_candidates_by_rank_fusion_are_scored() -> None:
    scorer = PlainScorer(number)
    out = TextReranker(scorer, TEXTS, TEXTS, "anything", depth=2)(table())
    assert out.schema == reranked_schema(SOURCES)
    by_hand = [1 / 63 + 1 / 61, 1 / 61 + 1 / 64, 1 / 62 + 1 / 62, 1 / 63]  # ease (above 0) and popularity, 60 + rank
    np.testing.assert_allclose(reciprocal_rank_fusion(table())[0], by_hand, rtol=1e-6)
    assert scorer.queries[0] == RankingQuery("anything", ("item 1", "item 2"), ("item 4", "item 6"))
    assert scorer.queries[1].history == ()
    scores = Ragged.from_arrow(out["llm_score"])
    np.testing.assert_array_equal(scores[0], [4, np.nan, 6, np.nan])
    np.testing.assert_array_equal(scores[2], [0])


def test_request_reaches_the_prompt_and_a_failure_affects_one_row() -> None:
    scorer = PlainScorer(number)
    asked = table().append_column("request", pa.array(["a lamp", "fail", None]))
    asked = asked.append_column("profile", pa.array(["red things", None, None]))
    out = TextReranker(scorer, TEXTS, TEXTS, "anything", depth=9)(asked)
    assert [ask.request for ask in scorer.queries] == ["a lamp", "fail", "anything"]
    assert [ask.profile for ask in scorer.queries] == ["red things", "", ""]
    assert out["error"].to_pylist() == [None, "it would not be read", None]
    assert out["llm_score"].is_null().to_pylist() == [False, True, False]
