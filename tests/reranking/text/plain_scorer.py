"""A text scorer without a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rayrec.reranking.engines.engine import Failure
from rayrec.reranking.text.text_scorer import PromptRounds, RankingQuery, TextScorer


class PlainScorer(TextScorer):
    """A candidate scores `worth` of its text; fails for the request `fails`."""

    name, task_form = "plain", "T0"

    def __init__(self, worth: Callable[[str], float], indifferent: float = 0.0) -> None:
        self.worth, self.indifferent, self.fails = worth, indifferent, "fail"
        self.queries: list[RankingQuery] = []

    def neutral_score(self, candidates: int) -> float:
        return self.indifferent

    def prompt_rounds(self, query: RankingQuery) -> PromptRounds:
        self.queries.append(query)
        yield from ()
        if query.request == self.fails:
            return Failure("as told")
        return np.array([self.worth(text) for text in query.candidates], np.float32)
