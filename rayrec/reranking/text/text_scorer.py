"""What every way of scoring over text is: a user's request, history and candidates in, one score a candidate out.

A way is a pure function of one `Ask` and the checkpoint: never of the other asks of its batch. A new way is a new file
with one class, registered by name, plus its test; all pass tests/reranking/ways/test_way_contract.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from rayrec.config.method_settings import read_settings, require
from rayrec.instructions.templates import Templates, load_templates
from rayrec.reranking.engines.engine import Failure, Float32
from rayrec.reranking.engines.next_token import NextTokenEngine
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint

FEW_SHOT_METHODS = ("none", "nearest", "difficult", "coverage")


@dataclass(frozen=True)
class FewShotExample:
    """What another user took, as a worked example (see demonstrations.py)."""

    history: tuple[str, ...]  # item texts, oldest first
    consumed: str  # the item that came next


@dataclass(frozen=True)
class RankingQuery:
    """What one user is to be ranked for. All of it may be anybody's text."""

    intention: str  # what they want now, in words; "": nothing is said
    history: tuple[str, ...]  # item texts, oldest first
    candidates: tuple[str, ...]  # item texts
    examples: tuple[FewShotExample, ...] = ()
    preference: str = ""  # what they like, in words

    def with_candidate(self, place: int, text: str) -> RankingQuery:
        """The same with another text in one place."""
        return replace(self, candidates=(*self.candidates[:place], text, *self.candidates[place + 1 :]))


@dataclass(frozen=True)
class TextScorerSettings:
    """What every way's settings hold: how much of each text enters a prompt. All of it changes scores."""

    prompt_tokens: int = 2048
    """Tokens of a whole prompt, 64 or more; the checkpoint's own bound may be lower. Bounds memory."""
    instruction_tokens: int = 128
    """Tokens of what is asked: of the intention, and of the preference what is left."""
    item_tokens: int = 48
    """Tokens of one item's text, in the history and among the candidates."""
    events: int = 20
    """Newest items of the history, 0 or more."""
    few_shot: str = "none"
    """Worked examples of other users before the question: `none`, `nearest`, `difficult` or `coverage`."""
    examples: int = 2
    """So many examples, where there are any."""
    example_events: int = 5
    """Newest items of an example's history."""

    @property
    def uses_templates(self) -> bool:
        """Whether the prompts are those of `instruction.templates`."""
        return True

    def __post_init__(self) -> None:
        require(self.prompt_tokens >= 64, "prompt_tokens must be at least 64")
        require(self.instruction_tokens >= 1, "instruction_tokens must be at least 1")
        require(self.item_tokens >= 1, "item_tokens must be at least 1")
        require(self.events >= 0, "events must not be below 0")
        require(self.few_shot in FEW_SHOT_METHODS, f"demonstrations must be one of {', '.join(FEW_SHOT_METHODS)}")
        require(self.examples >= 1, "examples must be at least 1")
        require(self.example_events >= 1, "example_events must be at least 1")


PromptRounds = Generator[list[list[int]], list[Float32 | Failure], Float32 | Failure]
"""What passes between a way and the LLM for one ask: it yields prompts, is sent an answer for each (see NextTokenEngine), and
returns the scores."""


class TextScorer(ABC):
    """Built once in an actor with a started engine."""

    name: ClassVar[str]
    task_form: ClassVar[str]  # of the templates that it reads
    settings_class: ClassVar[type[TextScorerSettings]]  # the dataclass that `rerank.settings` are read as
    engine: NextTokenEngine
    ids: Sequence[int]  # the next tokens that its prompts are asked for

    @abstractmethod
    def __init__(
        self, engine: NextTokenEngine, checkpoint: InstructCheckpoint, settings: Any, templates: Templates
    ) -> None:
        """`settings`: of `settings_class`. Raises ConfigError as `load` does."""

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> TextScorerSettings:
        """`rerank.settings` as this way's own dataclass. Raises ConfigError: called before any work starts."""
        return read_settings(cls.settings_class, settings, cls.where())

    @classmethod
    def where(cls) -> str:
        """Of the settings, in the config."""
        return f"rerank.settings ({cls.name})"

    @classmethod
    def load(
        cls,
        engine: NextTokenEngine,
        checkpoint: InstructCheckpoint,
        settings: Mapping[str, Any],
        templates: Templates | None = None,
    ) -> Self:
        """`engine` runs `checkpoint`; `templates` say how things are put, None: rayrec's own. Raises ConfigError if
        the checkpoint cannot be asked in this way, or the templates lack what it is asked by."""
        return cls(engine, checkpoint, cls.read(settings), templates or load_templates())

    def neutral_score(self, candidates: int) -> float:
        """What a candidate scores among so many where the checkpoint prefers none."""
        return 0.0

    @abstractmethod
    def prompt_rounds(self, ask: RankingQuery) -> PromptRounds:
        """The prompts of one ask, round by round, and its scores: a function of the ask and the answers alone."""

    def score(self, asks: Sequence[RankingQuery]) -> list[Float32 | Failure]:
        """For each ask float32 [candidates], higher is better, comparable within the ask; or why there is none.

        The asks are read side by side, so that the engine gets the prompts of a round all at once.
        """
        results: list[Float32 | Failure] = [Failure("not scored")] * len(asks)
        dialogues = [self.prompt_rounds(ask) for ask in asks]
        answers: dict[int, list[Float32 | Failure] | None] = dict.fromkeys(range(len(asks)))
        while answers:
            asked: dict[int, list[list[int]]] = {}
            for row, heard in answers.items():
                try:
                    asked[row] = next(dialogues[row]) if heard is None else dialogues[row].send(heard)
                except StopIteration as end:
                    results[row] = end.value
            if not asked:
                break
            all_answers = iter(self.engine.log_probs([prompt for rows in asked.values() for prompt in rows], self.ids))
            answers = {row: [next(all_answers) for _ in prompts] for row, prompts in asked.items()}
        return results


TEXT_SCORERS: dict[str, type[TextScorer]] = {}


def register(way: type[TextScorer]) -> type[TextScorer]:
    TEXT_SCORERS[way.name] = way
    return way
