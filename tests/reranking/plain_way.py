"""A way of scoring by text that asks no checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rayrec.reranking.engines.engine import Failure
from rayrec.reranking.text.text_scorer import PromptRounds, RankingQuery, TextScorer


class PlainWay(TextScorer):
    """A candidate scores what `worth` makes of its text, and nothing of the others'; fails where `fails` is asked."""

    name, task_form = "plain", "T0"

    def __init__(self, worth: Callable[[str], float], indifferent: float = 0.0) -> None:
        self.worth, self.indifferent, self.fails = worth, indifferent, "fail"
        self.heard: list[RankingQuery] = []

    def neutral_score(self, candidates: int) -> float:
        return self.indifferent

    def prompt_rounds(self, ask: RankingQuery) -> PromptRounds:
        self.heard.append(ask)
        yield from ()
        if ask.intention == self.fails:
            return Failure("as told")
        return np.array([self.worth(text) for text in ask.candidates], np.float32)
