"""A way of scoring by text that asks no checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from rayrec.instructions.templates import Templates
from rayrec.reranking.base import Failure
from rayrec.reranking.ways.base import Ask, Dialogue, Way, WaySettings
from rayrec.reranking.ways.checkpoint import Checkpoint
from rayrec.reranking.ways.next_token import NextToken


class PlainWay(Way):
    """A candidate scores what `worth` makes of its text, and nothing of the others'; fails where `fails` is asked."""

    name, task_form = "plain", "T0"

    def __init__(self, worth: Callable[[str], float], indifferent: float = 0.0) -> None:
        self.worth, self.indifferent, self.fails = worth, indifferent, "fail"
        self.heard: list[Ask] = []

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> WaySettings:
        return WaySettings()

    @classmethod
    def load(
        cls,
        engine: NextToken,
        checkpoint: Checkpoint,
        settings: Mapping[str, Any],
        templates: Templates | None = None,
    ) -> Self:
        raise NotImplementedError

    def neutral(self, candidates: int) -> float:
        return self.indifferent

    def dialogue(self, ask: Ask) -> Dialogue:
        self.heard.append(ask)
        yield from ()
        if ask.intention == self.fails:
            return Failure("as told")
        return np.array([self.worth(text) for text in ask.candidates], np.float32)
