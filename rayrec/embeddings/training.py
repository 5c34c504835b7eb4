"""Training: what the past teaches, the model that begins to learn it, and what is left in the end.

Users are asked at a few moments before the date; what they did within the horizon afterwards is the answer. A share of
the users, by their stable hash, is held out at every moment: they judge each epoch, and the best one is kept. Same
input, same weights (on CPU).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rayrec.config.embeddings import Embeddings
from rayrec.embeddings.events import Items
from rayrec.embeddings.examples import Examples
from rayrec.embeddings.language import SPREAD, speech
from rayrec.embeddings.lessons import Lesson
from rayrec.embeddings.model import UserModel, build
from rayrec.embeddings.start import start_words
from rayrec.embeddings.training_loop import Loop
from rayrec.embeddings.views import FIELDS, Scales, Viewer
from rayrec.embeddings.vocabulary import Vocabulary
from rayrec.ridge import one_thread
from rayrec.workers import ALONE, Worker

_FAINT = 1e-2  # of the words' own spread


@dataclass(frozen=True)
class Trained:
    model: UserModel
    vocabulary: Vocabulary
    scales: Scales
    curve: tuple[Mapping[str, float], ...]  # one row an epoch: loss and (where users are held out) validation, nats
    epochs: int  # whose weights these are: the best on validation, else the last


def train(
    settings: Embeddings,
    taught: Sequence[Lesson],
    items: Items,
    after_epoch: Callable[[Loop], None] = lambda loop: None,
    *,
    worker: Worker = ALONE,
    checkpoint: bytes | None = None,
) -> Trained:
    """One worker's part of the training; all end with the same weights. Goes on from a `checkpoint` of it (`Loop`).

    Raises DataError where there is nothing to learn from.
    """
    with one_thread():
        vocabulary = _vocabulary(settings, taught, items)
        scales = Scales.learn([lesson.before for lesson in taught], items)
        viewer = Viewer(settings, vocabulary, scales, items)
        speak = speech(settings.model, vocabulary)
        lessons = [Examples.of(settings, lesson, viewer(lesson.before), speak) for lesson in taught]
        model = build(
            settings.model, tuple(settings.sources), vocabulary.size, vocabulary.spoken, settings.training.seed
        )
        loop = Loop(model, lessons, settings.training, worker)
        if checkpoint is None:
            _start_words(model, lessons)
        else:
            loop.resume(checkpoint)
        loop.run(after_epoch)
    curve = tuple(loop.progress.curve)
    return Trained(model.eval().requires_grad_(False), vocabulary, scales, curve, loop.progress.best_epoch)


def _start_words(model: UserModel, lessons: Sequence[Examples]) -> None:
    with torch.no_grad():
        start = start_words([one.views for one in lessons], *model.words.shape)
        there = np.flatnonzero(np.abs(start).max(1) > _FAINT)  # the others, which all users have, start at random
        model.words[torch.from_numpy(there)] = torch.from_numpy(start[there]) * SPREAD


def _vocabulary(settings: Embeddings, taught: Sequence[Lesson], items: Items) -> Vocabulary:
    spoken = [instruction.text for instruction in settings.instructions.values() if instruction.answer]
    spoken += sorted({text for lesson in taught for one in lesson.answers if one.closed for text in one.text})
    counts = np.bincount(taught[0].before.item, minlength=len(items.item_id))
    known = [items.item_id[k] for k in np.flatnonzero(counts >= settings.training.min_item_events)]
    return Vocabulary.learn(items.text, spoken, FIELDS, known, settings.training.min_word_items)
