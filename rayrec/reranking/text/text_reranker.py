"""Reranking by text: an instruct checkpoint scores item texts. Same tables as the item-token ranker.

The first `depth` candidates by reciprocal rank fusion of the retrievers are scored, in that order; the others score
NaN, which ranks below. The fusion is the sum over sources of 1 / (60 + rank), for items that the source scores above 0
(Cormack et al. 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best, padded_rows, ranks
from rayrec.reranking.engines.engine import Failure, Float32
from rayrec.reranking.item_token.item_token_ranker import score_columns
from rayrec.reranking.text.few_shot import FewShotSelector
from rayrec.reranking.text.text_scorer import FewShotExample, RankingQuery, TextScorer

_FUSION = 60


@dataclass(frozen=True)
class TextReranker:
    """Scores tables with a started scorer; `rayrec.pipeline` wraps it into an actor."""

    scorer: TextScorer
    texts: tuple[str, ...]  # item texts by code
    titles: tuple[str, ...]  # item titles by code, the first part of each text
    default_request: str  # cleaned; for users with neither request nor profile; "": none
    depth: int
    few_shot_selector: FewShotSelector | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """candidate_schema -> reranked_schema, row for row.

        Optional columns: `request` (string; null: none) and `profile` (string, the user profile text; null: none).
        """
        candidate = Ragged.from_arrow(table["candidate"])
        depth, queries = self.queries(table)
        answers: list[Float32 | Failure] = []
        for row, answer in enumerate(self.scores(queries)):
            if not isinstance(answer, Failure):
                scores = np.full(int(candidate.lengths[row]), np.nan, np.float32)
                scores[depth[row] - candidate.offsets[row]] = answer
                answer = scores
            answers.append(answer)
        scores_column, errors = score_columns(answers)
        return table.append_column("llm_score", scores_column).append_column("error", errors)

    def queries(self, table: pa.Table) -> tuple[Ragged, list[RankingQuery]]:
        """The scored candidates of each row (places in its flat candidates, int64, in the retrievers' order), and the
        queries."""
        history, candidate = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["candidate"])
        requests, profiles = (
            table[name].to_pylist() if name in table.column_names else [None] * len(table)
            for name in ("request", "profile")
        )
        depth = best(reciprocal_rank_fusion(table), self.depth)
        scored = depth.like(candidate.values[depth.values])
        none: list[tuple[FewShotExample, ...]] = [()] * len(table)
        selector = self.few_shot_selector
        examples = none if selector is None else selector(table["user_id"].to_pylist(), history)
        queries = [
            RankingQuery(
                requests[row] or ("" if profiles[row] else self.default_request),
                tuple(self.texts[code] for code in history[row]),
                tuple(self.texts[code] for code in scored[row]),
                examples[row],
                profiles[row] or "",
            )
            for row in range(len(table))
        ]
        return depth, queries

    def scores(self, queries: Sequence[RankingQuery]) -> list[Float32 | Failure]:
        """The scorer's scores, shifted so that 0 means no preference."""
        neutral = [np.float32(self.scorer.neutral_score(len(query.candidates))) for query in queries]
        answers = zip(self.scorer.score(queries), neutral, strict=True)
        return [answer if isinstance(answer, Failure) else answer - none for answer, none in answers]


def reciprocal_rank_fusion(table: pa.Table) -> Ragged:
    """Reciprocal rank fusion of the candidates over all `score.*` columns, ragged float32."""
    candidate = Ragged.from_arrow(table["candidate"])
    total: npt.NDArray[np.float32] = np.zeros(len(candidate.values), np.float32)
    for name in table.column_names:
        if name.startswith("score."):
            values = Ragged.from_arrow(table[name]).values
            for block in padded_rows(candidate.offsets):
                at = block.take[block.mask]
                rank = ranks(values[block.take], block.mask)[block.mask]
                total[at] += np.where(values[at] > 0, 1 / (_FUSION + 1 + rank), 0).astype(np.float32)
    return candidate.like(total)
