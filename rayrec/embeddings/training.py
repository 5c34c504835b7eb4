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

from rayrec.config.embeddings_section import Embeddings
from rayrec.embeddings.embedding_examples import Examples
from rayrec.embeddings.embedding_training_loop import TrainingLoop
from rayrec.embeddings.language_model import INIT_STD, text_tokenizer
from rayrec.embeddings.source_events import Items
from rayrec.embeddings.source_views import FIELDS, FeatureScaler, ViewBuilder
from rayrec.embeddings.training_windows import TrainingWindow
from rayrec.embeddings.user_model import UserModel, build
from rayrec.embeddings.view_vocabulary import Vocabulary
from rayrec.embeddings.word_initialization import initial_word_vectors
from rayrec.numerics.collectives import SINGLE_WORKER, Worker
from rayrec.numerics.ridge_blocks import single_thread

_FAINT = 1e-2  # of the words' own spread


@dataclass(frozen=True)
class TrainedModel:
    model: UserModel
    vocabulary: Vocabulary
    scales: FeatureScaler
    curve: tuple[Mapping[str, float], ...]  # one row an epoch: loss and (where users are held out) validation, nats
    epochs: int  # whose weights these are: the best on validation, else the last


def train(
    settings: Embeddings,
    windows: Sequence[TrainingWindow],
    items: Items,
    after_epoch: Callable[[TrainingLoop], None] = lambda loop: None,
    *,
    worker: Worker = SINGLE_WORKER,
    checkpoint: bytes | None = None,
) -> TrainedModel:
    """One worker's part of the training; all end with the same weights. Goes on from a `checkpoint` of it (`Loop`).

    Raises DataError where there is nothing to learn from.
    """
    with single_thread():
        vocabulary = _vocabulary(settings, windows, items)
        scales = FeatureScaler.learn([lesson.before for lesson in windows], items)
        viewer = ViewBuilder(settings, vocabulary, scales, items)
        tokenize = text_tokenizer(settings.model, vocabulary)
        training_windows = [Examples.of(settings, lesson, viewer(lesson.before), tokenize) for lesson in windows]
        model = build(
            settings.model, tuple(settings.sources), vocabulary.size, vocabulary.spoken, settings.training.seed
        )
        loop = TrainingLoop(model, training_windows, settings.training, worker)
        if checkpoint is None:
            _start_words(model, training_windows)
        else:
            loop.resume(checkpoint)
        loop.run(after_epoch)
    curve = tuple(loop.progress.curve)
    return TrainedModel(model.eval().requires_grad_(False), vocabulary, scales, curve, loop.progress.best_epoch)


def _start_words(model: UserModel, training_windows: Sequence[Examples]) -> None:
    with torch.no_grad():
        start = initial_word_vectors([one.views for one in training_windows], *model.words.shape)
        there = np.flatnonzero(np.abs(start).max(1) > _FAINT)  # the others, which all users have, start at random
        model.words[torch.from_numpy(there)] = torch.from_numpy(start[there]) * INIT_STD


def _vocabulary(settings: Embeddings, windows: Sequence[TrainingWindow], items: Items) -> Vocabulary:
    spoken = [instruction.text for instruction in settings.instructions.values() if instruction.answer]
    spoken += sorted({text for lesson in windows for one in lesson.answers if one.closed for text in one.text})
    counts = np.bincount(windows[0].before.item, minlength=len(items.item_id))
    known = [items.item_id[k] for k in np.flatnonzero(counts >= settings.training.min_item_events)]
    return Vocabulary.learn(items.text, spoken, FIELDS, known, settings.training.min_word_items)
