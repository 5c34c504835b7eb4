"""Augmentation of simulated requests: their share in tuning prompts, and variations of their wording.

Users do not write as templates do. So half of the requests have no template words, random distractor words (stop words)
are inserted, and in most requests some of the template's words are dropped or replaced by distractors. A comedy "for
the night" is not a request for "night", so title words are distractors too in requests that name other facets.
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
    """The settings of the augmentation: task mix, simulator, renderer, tokenizer and distractors."""

    simulator: InstructionSimulator  # with facets by token index
    renderer: InstructionRenderer
    tokens: Callable[[Sequence[str]], Ragged]  # texts -> token ids, one row a text
    task_mix: Mapping[RequestTask, float]  # prompts per user and epoch
    distractors: Sequence[str] = ()  # words without meaning
    protected_words: frozenset[str] = frozenset()  # never replaced
    title_distractors: Sequence[str] = ()  # title words, which a request may contain without naming them
    items: int | None = None  # the first so many are requested against a history; None: all


def add_distractors(
    text: str, augmentation: RequestAugmentation, rng: np.random.Generator, title_distractors: Sequence[str] = ()
) -> str:
    """The text with distractors inserted and, in two of three texts, some words dropped or replaced by distractors.
    `title_distractors` occasionally serve as distractors."""
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
