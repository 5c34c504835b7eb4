"""The pairwise reranker: the top candidates compared in pairs along a sorting network (Batcher 1968).

    <opening> a pairwise template (T1): instruction, history | A: item  B: item <closing>   ->  log P(A) - log P(B)

Each pair is compared in both orders and averaged, which cancels position bias. The network fixes the compared places in
advance (63 comparisons in 10 rounds for 16 candidates), so all comparisons of a round form one batch. Candidates arrive
in the retrievers' order; those beyond `top` retain it.

A score is -log(rank), not a margin, and is blended as such.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
from pydantic import Field

from rayrec.instructions.templates import Templates
from rayrec.reranking.engines.engine import Engine, Failure
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_prompt import PromptBuilder, template_by_cell
from rayrec.reranking.text.text_scorer import (
    TEXT_SCORERS,
    PromptRounds,
    RankingQuery,
    TextScorer,
    TextScorerSettings,
    TuningPrompt,
)


class PairwiseSettings(TextScorerSettings):
    top: int = Field(16, ge=2, le=128)
    """Number of candidates to sort, 2 to 128; powers of two cost least. The others retain the retrievers' order."""


@TEXT_SCORERS.register
class PairwiseScorer(TextScorer):
    """Compares the top candidates in pairs, in both orders: for a short head whose order matters most."""

    name = "pairwise"
    task_form = "T1"
    settings_class = PairwiseSettings

    def __init__(
        self, engine: Engine, checkpoint: InstructCheckpoint, settings: PairwiseSettings, templates: Templates
    ) -> None:
        self.engine, self._settings, self._tokenizer = engine, settings, checkpoint.tokenizer
        chat = checkpoint.chat()
        self._prompts = PromptBuilder(
            chat,
            checkpoint.tokenizer,
            settings,
            template_by_cell(templates, self.task_form),
            candidate_tokens=2 * settings.item_tokens,
            max_tokens=engine.max_prompt_tokens,
        )
        self.ids = checkpoint.letter_ids(chat, "AB", 2, f"rerank.settings ({self.name})")

    def neutral_score(self, candidates: int) -> float:
        """The mean score of all ranks."""
        return -math.lgamma(candidates + 1) / max(candidates, 1)

    def prompt_rounds(self, query: RankingQuery) -> PromptRounds:
        """Scores -log(rank), ranks from 1."""
        shared = self._prompts.shared_prefix(query)
        order = list(range(len(query.candidates)))
        encode, most = self._tokenizer.encode_untrusted, self._settings.item_tokens
        texts = [encode(text, most) for text in query.candidates[: self._settings.top]]
        for compared in sorting_network(len(texts)):
            places = [place for high, low in compared for place in ((high, low), (low, high))]
            answers = yield [
                self._prompts.prompt(shared, {"first": texts[order[a]], "second": texts[order[b]]}) for a, b in places
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

    def tuning_prompts(
        self, query: RankingQuery, consumed: Sequence[bool], rng: np.random.Generator
    ) -> list[TuningPrompt]:
        """Each consumed candidate against each other one, in a random order."""
        shared = self._prompts.shared_prefix(query)
        texts = [self._tokenizer.encode_untrusted(text, self._settings.item_tokens) for text in query.candidates]
        right, wrong = (
            [place for place, is_right in enumerate(consumed) if is_right is kind] for kind in (True, False)
        )
        found = []
        for pair in product(right, wrong):
            answer = int(rng.integers(0, 2))  # the place of the consumed one
            first, second = pair if answer == 0 else pair[::-1]
            prompt = self._prompts.prompt(shared, {"first": texts[first], "second": texts[second]})
            found.append(TuningPrompt(prompt, (answer,), 1 / (len(right) * len(wrong))))
        return found


@cache
def sorting_network(size: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Rounds of comparisons (place, later place) that sort `size` elements, each place once a round (Batcher 1968).

    The network of the next power of two, without comparisons beyond `size`.
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
