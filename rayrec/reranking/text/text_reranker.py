"""Reranking by text: any instruct checkpoint reads titles. The same tables as the item-token way (see actor.py).

Of a user's candidates the `depth` that the retrievers rank highest together are read, in that order; the others score
NaN, below all that were read. Together: reciprocal rank fusion, sum over sources of 1 / (60 + rank), where a source
speaks for the item: by a score above 0 (Cormack et al. 2009).
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
from rayrec.reranking.item_token.item_token_reranker import score_columns
from rayrec.reranking.text.few_shot import FewShotSelector
from rayrec.reranking.text.text_scorer import FewShotExample, RankingQuery, TextScorer

_FUSION = 60


@dataclass(frozen=True)
class TextReranker:
    """Plain: built with a started way; `rayrec.pipeline` wraps it into an actor."""

    scorer: TextScorer
    texts: tuple[str, ...]  # of each item of the catalogue, by code
    titles: tuple[str, ...]  # the part of each text that is its title
    intention: str  # clean words, of users who ask for nothing; "": what comes next
    depth: int
    few_shot_selector: FewShotSelector | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """candidate_schema, with or without columns `request` and `preference` (string: what users intend and what
        they like; null: nothing is said), -> reranked_schema, row for row."""
        candidate = Ragged.from_arrow(table["candidate"])
        read, asks = self.queries(table)
        answers: list[Float32 | Failure] = []
        for row, answer in enumerate(self.scored(asks)):
            if not isinstance(answer, Failure):
                scores = np.full(int(candidate.lengths[row]), np.nan, np.float32)
                scores[read[row] - candidate.offsets[row]] = answer
                answer = scores
            answers.append(answer)
        scores_column, errors = score_columns(answers)
        return table.append_column("llm_score", scores_column).append_column("error", errors)

    def queries(self, table: pa.Table) -> tuple[Ragged, list[RankingQuery]]:
        """What is read of each row: places in its flat candidates, int64, in the retrievers' order; and the asks."""
        history, candidate = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["candidate"])
        intended, liked = (
            table[name].to_pylist() if name in table.column_names else [None] * len(table)
            for name in ("request", "preference")
        )
        read = best(reciprocal_rank_fusion(table), self.depth)
        chosen = read.like(candidate.values[read.values])
        users = table["user_id"].to_pylist()
        nothing: list[tuple[FewShotExample, ...]] = [()] * len(table)
        shown = nothing if self.few_shot_selector is None else self.few_shot_selector(users, history)
        asks = [
            RankingQuery(
                intended[row] or ("" if liked[row] else self.intention),
                tuple(self.texts[code] for code in history[row]),
                tuple(self.texts[code] for code in chosen[row]),
                shown[row],
                liked[row] or "",
            )
            for row in range(len(table))
        ]
        return read, asks

    def scored(self, asks: Sequence[RankingQuery]) -> list[Float32 | Failure]:
        """As the way scores them, 0 where it prefers nothing."""
        neutral = [np.float32(self.scorer.neutral_score(len(ask.candidates))) for ask in asks]
        answers = zip(self.scorer.score(asks), neutral, strict=True)
        return [answer if isinstance(answer, Failure) else answer - none for answer, none in answers]


def reciprocal_rank_fusion(table: pa.Table) -> Ragged:
    """The candidates' reciprocal rank fusion over all `score.*` columns, ragged float32."""
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
