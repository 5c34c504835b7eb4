"""Prompts that list candidates under labels, behind what their user's prompts share, and ask which comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from rayrec.reranking.ways.base import REQUEST, TAKEN, Ask, Frame, WaySettings
from rayrec.reranking.ways.checkpoint import Checkpoint
from rayrec.reranking.ways.labels import Labels
from rayrec.reranking.ways.words import Ids


@dataclass(frozen=True)
class Listing:
    """`<opening> request, history | heading A. item  B. item … question <closing>`"""

    labels: Labels
    frame: Frame
    heading: Ids
    ending: Ids  # the question, and the chat template's closing

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        settings: WaySettings,
        *,
        most: int,
        heading: str,
        question: str,
        longest: int,
        where: str,
    ) -> Self:
        """For lists of up to `most`; `longest`: tokens of a prompt. Raises ConfigError where that does not fit."""
        words, chat = checkpoint.words, checkpoint.chat()
        labels = Labels.of(checkpoint, chat, most, where)
        above, below = words.own(heading), words.own(question)
        lists = sum(len(line) + settings.item_tokens for line in labels.lines)
        rest = len(above) + lists + len(below)
        frame = Frame(chat, words, settings, words.own(REQUEST), words.own(TAKEN), rest, longest)
        return cls(labels, frame, above, (*below, *chat.closing))

    def beginning(self, ask: Ask) -> list[int]:
        """What all lists of one ask share."""
        return [*self.frame.beginning(ask), *self.heading]

    def prompt(self, beginning: Sequence[int], texts: Sequence[str]) -> list[int]:
        """One list of candidates' texts, in this order."""
        most = self.frame.settings.item_tokens
        listed = self.labels.listed([self.frame.words.of(text, most) for text in texts])
        return [*beginning, *listed, *self.ending]
