"""Text scorers without a model: on an engine that answers from the text of a prompt, or on none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from rayrec.instructions.templates import Templates, load_templates
from rayrec.reranking.engines.engine import Engine, EngineSettings, Failure, Float32
from rayrec.reranking.text import TEXT_SCORERS, InstructCheckpoint, RankingQuery, TextScorer
from rayrec.reranking.text.text_scorer import PromptRounds


def load(
    method: str, engine: Engine, checkpoint: InstructCheckpoint, templates: Templates | None = None, **settings: Any
) -> TextScorer:
    """The scorer of that name with these settings."""
    scorer = TEXT_SCORERS[method]
    return scorer(engine, checkpoint, scorer.settings_class(**settings), templates or load_templates())


class Oracle(Engine):
    name = "oracle"

    def __init__(
        self,
        checkpoint: InstructCheckpoint,
        answer: Callable[[str, int], list[float] | None] = lambda text, count: [0.0] * count,
    ) -> None:
        """`answer`: the prompt's text and the number of ids -> logits of the first of them, None: it fails."""
        super().__init__(checkpoint.model_files, "next_token", EngineSettings(), 2000)
        self._tokenizer = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
        self._answer = answer
        self.prompts: list[str] = []
        self.calls = 0

    def _next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        self.calls += 1
        return [self._one(self._tokenizer.decode(prompt, skip_special_tokens=False), len(ids)) for prompt in prompts]

    def _last_hidden_states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        raise AssertionError("an oracle answers next-token prompts only")

    def _one(self, text: str, count: int) -> Float32 | Failure:
        self.prompts.append(text)
        logits = self._answer(text, count)
        if logits is None:
            return Failure("it would not be read")
        row = np.full(count, -30.0)
        row[: len(logits)] = logits
        return (row - np.logaddexp.reduce(row)).astype(np.float32)


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
            return Failure("it would not be read")
        return np.array([self.worth(text) for text in query.candidates], np.float32)
