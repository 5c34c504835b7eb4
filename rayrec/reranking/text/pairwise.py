"""pairwise: the top candidates compared two by two along a sorting network (Batcher's odd-even merge sort).

    <opening> a pairwise template (T1): what is asked, history | A: item  B: item <closing>   ->  log P(A) - log P(B)

Each pair is read in both orders and averaged, so that A before B cannot matter. The network fixes which places are
compared, whatever the answers (63 comparisons in 10 rounds for 16 candidates): the comparisons of a round are read at
once, and no answer can lead to more of them. Candidates come in the retriever's order; those beyond `top` keep it.

A score is -log(rank): of a rank, not of a margin, and blended as such.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from rayrec.config.method_settings import require
from rayrec.instructions.templates import Templates
from rayrec.reranking.engines.engine import Failure
from rayrec.reranking.engines.next_token import NextTokenEngine
from rayrec.reranking.text.answer_labels import answer_ids
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_prompt import PromptBuilder, template_by_cell
from rayrec.reranking.text.text_scorer import PromptRounds, RankingQuery, TextScorer, TextScorerSettings, register


@dataclass(frozen=True)
class PairwiseSettings(TextScorerSettings):
    top: int = 16
    """Candidates that are sorted, 2 to 128; powers of two waste nothing, and those behind keep their order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.top <= 128, "top must be between 2 and 128")


@register
class PairwiseScorer(TextScorer):
    """The top candidates compared two by two, in both orders: for a short head whose order matters most."""

    name = "pairwise"
    task_form = "T1"
    settings_class = PairwiseSettings

    def __init__(
        self, engine: NextTokenEngine, checkpoint: InstructCheckpoint, settings: PairwiseSettings, templates: Templates
    ) -> None:
        self.engine, self._settings, self._words = engine, settings, checkpoint.words
        chat = checkpoint.chat()
        self._prompts = PromptBuilder(
            chat,
            checkpoint.words,
            settings,
            template_by_cell(templates, self.task_form),
            candidates=2 * settings.item_tokens,
            longest=engine.longest,
        )
        self.ids = answer_ids(checkpoint, chat, "AB", self.where())

    def neutral_score(self, candidates: int) -> float:
        """The mean of all ranks' scores."""
        return -math.lgamma(candidates + 1) / max(candidates, 1)

    def prompt_rounds(self, ask: RankingQuery) -> PromptRounds:
        """-log(rank), ranks from 1."""
        beginning = self._prompts.shared_prefix(ask)
        order = list(range(len(ask.candidates)))
        texts = [self._words.of(text, self._settings.item_tokens) for text in ask.candidates[: self._settings.top]]
        for compared in sorting_network(len(texts)):
            places = [place for high, low in compared for place in ((high, low), (low, high))]
            answers = yield [
                self._prompts.prompt(beginning, {"first": texts[order[a]], "second": texts[order[b]]})
                for a, b in places
            ]
            for (high, low), first, second in zip(compared, answers[::2], answers[1::2], strict=True):
                if isinstance(first, Failure):
                    return first
                if isinstance(second, Failure):
                    return second
                if (first[0] - first[1]) + (second[1] - second[0]) < 0:
                    order[high], order[low] = order[low], order[high]
        scores = np.empty(len(order), np.float32)
        scores[order] = -np.log(np.arange(1, len(order) + 1))
        return scores


@cache
def sorting_network(size: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Rounds of comparisons (place, later place) that sort `size` elements, none twice in a round (Batcher 1968).

    Made for the next power of two; comparisons with places beyond `size`, where nothing better can be, are left out.
    """
    rounds: list[list[tuple[int, int]]] = []
    sorted_run = 1
    while sorted_run < size:
        step = sorted_run
        while step >= 1:
            compared = [
                (place, place + step)
                for start in range(step % sorted_run, size - step, 2 * step)
                for place in range(start, min(start + step, size - step))
                if place // (2 * sorted_run) == (place + step) // (2 * sorted_run)
            ]
            rounds.append(compared)
            step //= 2
        sorted_run *= 2
    return tuple(tuple(compared) for compared in rounds)
