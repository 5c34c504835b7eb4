"""What every way of scoring over text is: a user's request, history and candidates in, one score a candidate out.

A way is a pure function of one `Ask` and the checkpoint: never of the other asks of its batch. A new way is a new file
with one class, registered by name, plus its test; all pass tests/reranking/ways/test_way_contract.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from rayrec.errors import ConfigError
from rayrec.reranking.base import Failure, Float32
from rayrec.reranking.ways.checkpoint import Chat, Checkpoint
from rayrec.reranking.ways.next_token import NextToken
from rayrec.reranking.ways.words import Ids, Words
from rayrec.settings import require

REQUEST = "Someone asks for a recommendation.\nRequest:"
TAKEN = "\nWhat they took so far, oldest first:"
DEMONSTRATIONS = ("none", "nearest", "difficult", "coverage")
_EXAMPLE, _NEXT, _END = "Example. Somebody took, oldest first:", "\nand then:", "\n\n"


@dataclass(frozen=True)
class Example:
    """What another user took, as a worked example (see demonstrations.py)."""

    history: tuple[str, ...]  # item texts, oldest first
    taken: str  # the item that came next


@dataclass(frozen=True)
class Ask:
    """What one user is to be ranked for. All of it may be anybody's text."""

    instruction: str
    history: tuple[str, ...]  # item texts, oldest first
    candidates: tuple[str, ...]  # item texts
    examples: tuple[Example, ...] = ()

    def with_candidate(self, place: int, text: str) -> Ask:
        """The same with another text in one place."""
        return replace(self, candidates=(*self.candidates[:place], text, *self.candidates[place + 1 :]))


@dataclass(frozen=True)
class WaySettings:
    """What every way's settings hold: how much of each text enters a prompt. All of it changes scores."""

    prompt_tokens: int = 2048
    """Tokens of a whole prompt, 64 or more; the checkpoint's own bound may be lower. Bounds memory."""
    instruction_tokens: int = 128
    """Tokens of the request."""
    item_tokens: int = 48
    """Tokens of one item's text, in the history and among the candidates."""
    events: int = 20
    """Newest items of the history, 0 or more."""
    demonstrations: str = "none"
    """Worked examples of other users before the question: `none`, `nearest`, `difficult` or `coverage`."""
    examples: int = 2
    """So many examples, where there are any."""
    example_events: int = 5
    """Newest items of an example's history."""

    def __post_init__(self) -> None:
        require(self.prompt_tokens >= 64, "prompt_tokens must be at least 64")
        require(self.instruction_tokens >= 1, "instruction_tokens must be at least 1")
        require(self.item_tokens >= 1, "item_tokens must be at least 1")
        require(self.events >= 0, "events must not be below 0")
        require(self.demonstrations in DEMONSTRATIONS, f"demonstrations must be one of {', '.join(DEMONSTRATIONS)}")
        require(self.examples >= 1, "examples must be at least 1")
        require(self.example_events >= 1, "example_events must be at least 1")


Dialogue = Generator[list[list[int]], list[Float32 | Failure], Float32 | Failure]
"""What passes between a way and the LLM for one ask: it yields prompts, is sent an answer for each (see NextToken), and
returns the scores."""


class Way(ABC):
    """Built once in an actor with a started engine."""

    name: ClassVar[str]
    settings_kind: ClassVar[type[WaySettings]]  # the dataclass that `rerank.settings` are read as
    engine: NextToken
    ids: Sequence[int]  # the next tokens that its prompts are asked for

    @classmethod
    @abstractmethod
    def read(cls, settings: Mapping[str, Any]) -> WaySettings:
        """`rerank.settings` as this way's own dataclass. Raises ConfigError: called before any work starts."""

    @classmethod
    @abstractmethod
    def load(cls, engine: NextToken, checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Self:
        """`engine` runs `checkpoint`. Raises ConfigError if the checkpoint cannot be asked in this way."""

    def neutral(self, candidates: int) -> float:
        """What a candidate scores among so many where the checkpoint prefers none."""
        return 0.0

    @abstractmethod
    def dialogue(self, ask: Ask) -> Dialogue:
        """The prompts of one ask, round by round, and its scores: a function of the ask and the answers alone."""

    def score(self, asks: Sequence[Ask]) -> list[Float32 | Failure]:
        """For each ask float32 [candidates], higher is better, comparable within the ask; or why there is none.

        The asks are read side by side, so that the engine gets the prompts of a round all at once.
        """
        results: list[Float32 | Failure] = [Failure("not scored")] * len(asks)
        dialogues = [self.dialogue(ask) for ask in asks]
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


@dataclass(frozen=True)
class Frame:
    """The part of a prompt that all prompts of one user share: examples, who asks for what, and what they took.

    `room`: the tokens that are left for the rest of the message, whatever the user's texts.
    """

    chat: Chat
    words: Words
    settings: WaySettings
    request: Ids  # our wording before the instruction
    taken: Ids  # before the history
    room: int  # tokens that are kept free for the rest of the message
    longest: int

    def __post_init__(self) -> None:
        if self._history_room(self.settings.instruction_tokens) < 0:
            raise ConfigError(
                f"prompts of {self.longest} tokens are too short for what must stand in them",
                where="rerank.settings",
                do="raise prompt_tokens, or lower instruction_tokens, item_tokens, window or examples",
            )

    def beginning(self, ask: Ask) -> list[int]:
        """The chat template's opening, the instruction and the newest events that fit, oldest first."""
        instruction = self.words.of(ask.instruction, self.settings.instruction_tokens)
        room = self._history_room(len(instruction))
        bullet = self._bullet
        newest: list[Ids] = []
        for text in reversed(ask.history[len(ask.history) - min(self.settings.events, len(ask.history)) :]):
            line = bullet + self.words.of(text, self.settings.item_tokens)
            room -= len(line)
            if room < 0:
                break
            newest.append(line)
        events = [token for line in reversed(newest) for token in line] or self.words.own(" nothing")
        shown = [token for example in ask.examples for token in self._example(example)]
        return [*self.chat.opening, *shown, *self.request, *instruction, *self.taken, *events]

    @property
    def _bullet(self) -> Ids:
        return self.words.own("\n-")

    def _example(self, example: Example) -> Iterator[int]:
        own, most = self.words.own, self.settings.item_tokens
        yield from own(_EXAMPLE)
        for text in example.history[-self.settings.example_events :]:
            yield from (*self._bullet, *self.words.of(text, most))
        yield from (*own(_NEXT), *self._bullet, *self.words.of(example.taken, most), *own(_END))

    def _examples_room(self) -> int:
        if self.settings.demonstrations == "none":
            return 0
        line = len(self._bullet) + self.settings.item_tokens
        around = sum(len(self.words.own(text)) for text in (_EXAMPLE, _NEXT, _END))
        return self.settings.examples * (around + (self.settings.example_events + 1) * line)

    def _history_room(self, instruction: int) -> int:
        around = len(self.chat.opening) + len(self.chat.closing) + len(self.request) + len(self.taken)
        nothing = len(self.words.own(" nothing"))
        return self.longest - around - instruction - self.room - self._examples_room() - nothing


WAYS: dict[str, type[Way]] = {}


def register(way: type[Way]) -> type[Way]:
    WAYS[way.name] = way
    return way
