"""yes_no: one candidate a prompt, last; score = log P(yes) - log P(no).

    <opening> request, history | one item, the question <closing>
    shared by all candidates   | all that differs

A prompt holds one candidate's text only, so that no candidate can reach another's score. The shared beginning comes
first and its length does not depend on the item: engines read it once, from their prefix cache.

`prompt: qwen3_reranker` writes what the Qwen3-Reranker checkpoints were trained on (their model card: a system message
with the task of the judge, then <Instruct>, <Query>, <Document>, and "yes" or "no").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from rayrec.errors import ConfigError
from rayrec.reranking.base import Failure, Float32
from rayrec.reranking.ways.base import REQUEST, TAKEN, Ask, Dialogue, Frame, Way, WaySettings, register
from rayrec.reranking.ways.checkpoint import Checkpoint
from rayrec.reranking.ways.next_token import NextToken
from rayrec.settings import read_settings, require


@dataclass(frozen=True)
class Wording:
    """Our words around the others' texts, and the two answers in their spellings, pair by pair."""

    system: str | None
    request: str
    taken: str
    item: str
    question: str
    answers: tuple[tuple[str, str], ...]  # (yes, no)


PROMPTS = {
    "plain": Wording(
        None,
        REQUEST,
        TAKEN,
        "\n\nProposed item:",
        "\nShould this item be recommended to them now? Answer with Yes or No only.",
        (("Yes", "No"), ("yes", "no")),
    ),
    "qwen3_reranker": Wording(
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Note that the answer can only be "yes" or "no".',
        "<Instruct>: Given what a person asks for and what they took so far, find the items to recommend to them\n"
        "<Query>:",
        "\nTaken so far, oldest first:",
        "\n<Document>:",
        "",
        (("yes", "no"),),
    ),
}


@dataclass(frozen=True)
class YesNoSettings(WaySettings):
    prompt: str = "plain"
    """`plain`, or `qwen3_reranker`: the words that the Qwen3-Reranker checkpoints were trained on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.prompt in PROMPTS, f"prompt must be one of {', '.join(PROMPTS)}")
        require(
            self.prompt == "plain" or self.demonstrations == "none", f"prompt {self.prompt} takes no demonstrations"
        )


@register
class YesNo(Way):
    """One candidate a prompt, yes or no: no item's text can change another's score."""

    name = "yes_no"
    settings_kind = YesNoSettings

    def __init__(self, engine: NextToken, checkpoint: Checkpoint, settings: YesNoSettings) -> None:
        wording, words = PROMPTS[settings.prompt], checkpoint.words
        chat = checkpoint.chat(wording.system)
        self.engine, self._words, self._settings, self._closing = engine, words, settings, chat.closing
        self._item, self._question = words.own(wording.item), words.own(wording.question)
        rest = len(self._item) + settings.item_tokens + len(self._question)
        self._frame = Frame(
            chat, words, settings, words.own(wording.request), words.own(wording.taken), rest, engine.longest
        )
        known = checkpoint.answer_ids(chat, [answer for pair in wording.answers for answer in pair])
        pairs = [(known[yes], known[no]) for yes, no in wording.answers if yes in known and no in known]
        if not pairs:
            raise ConfigError(
                "yes and no are not one token each where this checkpoint answers",
                where=f"rerank.checkpoint: {checkpoint.folder}",
                do="choose another checkpoint for method yes_no",
            )
        self.ids = [*(yes for yes, _ in pairs), *(no for _, no in pairs)]

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> YesNoSettings:
        return read_settings(YesNoSettings, settings, "rerank.settings (yes_no)")

    @classmethod
    def load(cls, engine: NextToken, checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Self:
        return cls(engine, checkpoint, cls.read(settings))

    def dialogue(self, ask: Ask) -> Dialogue:
        """Log-odds. A candidate whose prompt alone fails is NaN in its place; a Failure only where all of them fail."""
        beginning, most = [*self._frame.beginning(ask), *self._item], self._settings.item_tokens
        answers = yield [
            [*beginning, *self._words.of(text, most), *self._question, *self._closing] for text in ask.candidates
        ]
        return _log_odds(answers)


def _log_odds(answers: Sequence[Float32 | Failure]) -> Float32 | Failure:
    """Each answer: log-probabilities of the spellings of yes, then as many of no."""
    failures = [answer for answer in answers if isinstance(answer, Failure)]
    if failures and len(failures) == len(answers):
        return failures[0]
    out = np.full(len(answers), np.nan, np.float32)
    for place, answer in enumerate(answers):
        if not isinstance(answer, Failure):
            yes, no = np.split(answer, 2)
            out[place] = np.logaddexp.reduce(yes) - np.logaddexp.reduce(no)
    return out
