"""What tuning's prompts ask in: who asks, how often, and how the words of templates are shaken up.

People do not ask as templates do. So half of the requests stand alone, without a template's words around them, words
that mean nothing here are strewn in, and in most of them a share of the template's own words is left out or replaced
by such: what is to be learned is to look for the words that do mean something. Words beyond all these are not heard at
all (see rayrec.instructions.in_vocabulary). Nor is every word of a title meant that somebody says: who asks for a comedy for
the night does not ask for "night". So words that titles share are strewn in, too, where something else is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rayrec.config import RequestTask
from rayrec.instructions.instruction_prompt import InstructionRenderer
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.numerics.ragged import Ragged

_WORD = re.compile(r"\w+")
_FILLERS = 12  # at most so many words strewn into a request
_ASIDE = 0.05  # share of the words strewn in that titles share


@dataclass(frozen=True)
class RequestAugmentation:
    """Who asks, how often, and in what words.

    `teacher`: of the facets by artefact index. `tokens`: texts -> token ids, one row a text. `shares`: form -> prompts
    per user and epoch. `fillers`: words without a meaning here.
    `meant`: words that no filler replaces. `asides`: words that mean something, and may be said without meaning it.
    `items`: so many, the first, are asked for contrary to a history; None: all.
    """

    teacher: InstructionSimulator
    renderer: InstructionRenderer
    tokens: Callable[[Sequence[str]], Ragged]
    task_mix: Mapping[RequestTask, float]
    distractors: Sequence[str] = ()
    protected_words: frozenset[str] = frozenset()
    title_distractors: Sequence[str] = ()
    items: int | None = None

    @property
    def of_items(self) -> RequestAugmentation:
        """Without the form that is answered in words."""
        return replace(self, task_mix={form: share for form, share in self.task_mix.items() if form != "turned"})


def add_distractors(
    text: str, asking: RequestAugmentation, rng: np.random.Generator, asides: Sequence[str] = ()
) -> str:
    """The text with a few fillers between its words and, two times in three, without some of them or in their place.

    `asides`: words that now and then stand for a filler.
    """
    words = text.split(" ")
    if not asking.distractors:
        return text

    def filler() -> str:
        among = asides if asides and rng.random() < _ASIDE else asking.distractors
        return among[int(rng.integers(0, len(among)))]

    changed = rng.random(len(words)) < rng.uniform(-0.5, 1)
    dropped = rng.random(len(words)) < 0.5
    said = []
    for word, change, drop in zip(words, changed.tolist(), dropped.tolist(), strict=True):
        if not change or asking.protected_words.intersection(_WORD.findall(word.lower())):
            said.append(word)
        elif not drop:
            said.append(filler())
    for _ in range(int(rng.integers(0, _FILLERS + 1))):
        said.insert(int(rng.integers(0, len(said) + 1)), filler())
    return " ".join(said)
