"""Lessons as token ids: examples (user, instruction, answer), in batches of users of the same moment."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayrec.config.embeddings_section import Embeddings
from rayrec.embeddings.source_views import View
from rayrec.embeddings.training_windows import TrainingWindow

_LONGEST_ANSWER = 32  # tokens

Ids = tuple[int, ...]
Users = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Of one lesson."""

    views: dict[str, View]
    questions: tuple[Ids, ...]  # the taught instructions
    closed: npt.NDArray[np.bool_]  # [questions]
    answer_tokens: tuple[tuple[Ids, ...], ...]  # [questions][users]: the answer, empty if there is none
    train_users: Users  # who has an answer, and is not held out
    validation_users: Users

    @classmethod
    def of(
        cls, settings: Embeddings, lesson: TrainingWindow, views: dict[str, View], tokenize: Callable[[str], list[int]]
    ) -> Examples:
        """`speak`: texts as the language model reads them."""
        texts = [instruction.text for instruction in settings.instructions.values() if instruction.answer]
        ids: dict[str, Ids] = {}
        for text in itertools.chain.from_iterable(one.text for one in lesson.answers):
            if text not in ids:
                ids[text] = tuple(tokenize(text)[:_LONGEST_ANSWER])
        said = tuple(tuple(ids[text] for text in one.text) for one in lesson.answers)
        answered = np.array([[bool(a) for a in one] for one in said]).any(0)
        return cls(
            views,
            tuple(tuple(tokenize(text)) for text in texts),
            np.array([one.closed for one in lesson.answers]),
            said,
            np.flatnonzero(answered & ~lesson.held_out),
            np.flatnonzero(answered & lesson.held_out),
        )

    def sample_questions(self, users: Users, most: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(place among `users`, question): at most `most` a user, drawn among those the log can answer."""
        pairs = []
        for place, user in enumerate(users):
            known = [k for k, answers in enumerate(self.answer_tokens) if answers[user]]
            chosen = rng.permutation(len(known))[:most]
            pairs += [(place, known[k]) for k in sorted(chosen.tolist())]
        return pairs


def batches(
    training_windows: Sequence[Examples], size: int, rng: np.random.Generator
) -> Iterator[tuple[Examples, Users]]:
    """Everybody who is learned from, once, at most `size` at a time."""
    plan = []
    for one in training_windows:
        users = rng.permutation(one.train_users)
        plan += [(one, users[start : start + size]) for start in range(0, len(users), size)]
    for k in rng.permutation(len(plan)):
        yield plan[k]
