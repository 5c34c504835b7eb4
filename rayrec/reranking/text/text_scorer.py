"""The base class of text scorers: request, history and candidates of a user in, one score per candidate out.

A score is a pure function of one `RankingQuery` and the checkpoint, never of other queries of the batch. A new scorer
is a new file with one registered class, and must pass tests/reranking/text/test_scorer_contract.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from rayrec.config.registry import Registry
from rayrec.config.rerank_section import WITHOUT_CHECKPOINT
from rayrec.config.section import MethodSettings
from rayrec.errors import ConfigError
from rayrec.instructions.templates import Templates
from rayrec.reranking.engines.engine import Engine, EngineSettings, Failure, Float32
from rayrec.reranking.engines.engine_registry import engine_class
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint


@dataclass(frozen=True)
class FewShotExample:
    """A history of another user and the item consumed next, shown before the question (see `few_shot`)."""

    history: tuple[str, ...]  # item texts, oldest first
    consumed: str  # text of the next item


@dataclass(frozen=True)
class RankingQuery:
    """The input for scoring one user's candidates. All of its text may be untrusted."""

    request: str  # "": none
    history: tuple[str, ...]  # item texts, oldest first
    candidates: tuple[str, ...]  # item texts
    examples: tuple[FewShotExample, ...] = ()
    profile: str = ""  # "": none


class TextScorerSettings(MethodSettings):
    """Settings of all text scorers: how much of each text enters a prompt. All of them change scores."""

    prompt_tokens: int = Field(2048, ge=64)
    """Maximum tokens of a whole prompt, 64 or more; the checkpoint may allow fewer. Bounds memory."""
    instruction_tokens: int = Field(128, ge=1)
    """Maximum tokens of the request and the user profile text together; the request comes first."""
    item_tokens: int = Field(48, ge=1)
    """Maximum tokens of an item's text, in the history and among the candidates."""
    events: int = Field(20, ge=0)
    """Number of newest history items in a prompt, 0 or more."""
    few_shot: Literal["none", "nearest", "difficult", "coverage"] = "none"
    """Few-shot examples of other users before the question: `none`, `nearest`, `difficult` or `coverage`."""
    examples: int = Field(2, ge=1)
    """Number of few-shot examples."""
    example_events: int = Field(5, ge=1)
    """Number of newest history items in a few-shot example."""

    @property
    def uses_templates(self) -> bool:
        """Whether the prompts come from `instruction.templates`."""
        return True


PromptRounds = Generator[list[list[int]], list[Float32 | Failure], Float32 | Failure]
"""The protocol between scorer and LLM for one query: the generator yields prompts, receives a result for each (see
`Engine.next_token_log_probs`), and returns the scores."""


@dataclass(frozen=True)
class TuningPrompt:
    """A prompt with its right answers, for tuning."""

    tokens: Sequence[int]
    answers: tuple[int, ...]  # places in the scorer's `ids`; any of them is right
    weight: float = 1.0


class TextScorer(ABC):
    """Base class of text scorers, built once in an actor with a started engine."""

    name: ClassVar[str]  # value of rerank.method
    task_form: ClassVar[str]  # of its templates
    settings_class: ClassVar[type[TextScorerSettings]]  # of `rerank.settings`
    asks_each_alone: ClassVar[bool] = False  # whether a candidate's score is the same without the other candidates
    engine: Engine
    ids: Sequence[int]  # token ids of the possible answers

    @abstractmethod
    def __init__(self, engine: Engine, checkpoint: InstructCheckpoint, settings: Any, templates: Templates) -> None:
        """`engine` runs the `checkpoint`; `settings` is a `settings_class`.

        Raises ConfigError if the checkpoint lacks the required answer tokens, or a template is missing.
        """

    def neutral_score(self, candidates: int) -> float:
        """The score of each of `candidates` candidates if the checkpoint prefers none."""
        return 0.0

    @abstractmethod
    def prompt_rounds(self, query: RankingQuery) -> PromptRounds:
        """Yields the prompts of one query round by round, then returns its scores; depends on query and results
        alone."""

    def tuning_prompts(
        self, query: RankingQuery, consumed: Sequence[bool], rng: np.random.Generator
    ) -> list[TuningPrompt]:
        """Prompts of the kind that `prompt_rounds` yields, answered by which candidates the user consumed: at least one
        and not all. Raises ConfigError for a method that cannot be tuned."""
        raise ConfigError(
            f"rerank.method {self.name} cannot be tuned",
            where="rerank.adapter",
            hint="choose pointwise, pairwise or listwise, or leave rerank.adapter out",
        )

    def score(self, queries: Sequence[RankingQuery]) -> list[Float32 | Failure]:
        """For each query float32 [candidates], higher is better, comparable within the query; or a Failure.

        Queries advance together, so that the engine gets all prompts of a round at once.
        """
        scores: list[Float32 | Failure] = [Failure("not scored")] * len(queries)
        rounds = [self.prompt_rounds(query) for query in queries]
        results: dict[int, list[Float32 | Failure] | None] = dict.fromkeys(range(len(queries)))
        while results:
            prompts: dict[int, list[list[int]]] = {}
            for row, result in results.items():
                try:
                    prompts[row] = next(rounds[row]) if result is None else rounds[row].send(result)
                except StopIteration as end:
                    scores[row] = end.value
            if not prompts:
                break
            flat = [prompt for of_query in prompts.values() for prompt in of_query]
            answers = iter(self.engine.next_token_log_probs(flat, self.ids))
            results = {row: [next(answers) for _ in of_query] for row, of_query in prompts.items()}
        return scores


TEXT_SCORERS: Registry[type[TextScorer]] = Registry("rerank.method", "reranker", built_in=WITHOUT_CHECKPOINT)


def start_engine(
    engine: str, checkpoint: InstructCheckpoint, engine_settings: EngineSettings, prompt_tokens: int
) -> Engine:
    """An engine for any text scorer on this checkpoint; `engine`: as in `rerank.engine`."""
    found = engine_class(engine, engine_settings.device)
    return found(checkpoint.model_files, "next_token", engine_settings, prompt_tokens)
