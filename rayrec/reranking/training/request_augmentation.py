"""Augmentation of simulated requests: how often tuning prompts ask for something, and how their wording is varied.

People do not write as templates do. So half of the requests stand without the words of a template, random distractor
words (stop words) are inserted, and in most requests a share of the template's own words is left out or replaced by
distractors. Who asks for a comedy "for the night" does not ask for "night": so words that titles share are distractors
too, beside a request for something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rayrec.config import RequestTask
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.instructions.templates import InstructionRenderer
from rayrec.numerics.ragged import Ragged

_WORD = re.compile(r"\w+")
_MAX_DISTRACTORS = 12  # inserted into one request
_TITLE_SHARE = 0.05  # of the distractors


@dataclass(frozen=True)
class RequestAugmentation:
    """How often and in what words tuning prompts ask for something."""

    simulator: InstructionSimulator  # of the facets by token index
    renderer: InstructionRenderer
    tokens: Callable[[Sequence[str]], Ragged]  # texts -> token ids, one row a text
    task_mix: Mapping[RequestTask, float]  # prompts per user and epoch
    distractors: Sequence[str] = ()  # words without a meaning here
    protected_words: frozenset[str] = frozenset()  # never replaced
    title_distractors: Sequence[str] = ()  # words with a meaning that may stand in a request without it
    items: int | None = None  # so many, the first, are requested against a history; None: all


def add_distractors(
    text: str, augmentation: RequestAugmentation, rng: np.random.Generator, title_distractors: Sequence[str] = ()
) -> str:
    """The text with distractors between its words and, two times in three, without some of its words or with
    distractors in their place. `title_distractors`: words that now and then stand for a distractor."""
    words = text.split(" ")
    if not augmentation.distractors:
        return text

    def distractor() -> str:
        titles = title_distractors and rng.random() < _TITLE_SHARE
        choices = title_distractors if titles else augmentation.distractors
        return choices[int(rng.integers(0, len(choices)))]

    changed = rng.random(len(words)) < rng.uniform(-0.5, 1)
    dropped = rng.random(len(words)) < 0.5
    out = []
    for word, change, drop in zip(words, changed.tolist(), dropped.tolist(), strict=True):
        if not change or augmentation.protected_words.intersection(_WORD.findall(word.lower())):
            out.append(word)
        elif not drop:
            out.append(distractor())
    for _ in range(int(rng.integers(0, _MAX_DISTRACTORS + 1))):
        out.insert(int(rng.integers(0, len(out) + 1)), distractor())
    return " ".join(out)
