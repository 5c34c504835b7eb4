"""Training of the user model: vocabulary, scaler, initial word vectors, then the training loop.

Examples are users as of several cutoffs before the date, labelled by their events in the horizon after each cutoff. A
share of the users, by their stable hash, is held out at every cutoff for validation; the weights of the best epoch are
returned. The same input gives the same weights (on CPU).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds

from rayrec.config.embeddings_section import Embeddings
from rayrec.embeddings.embedder_training_loop import TrainingLoop
from rayrec.embeddings.language_model import INIT_STD, text_tokenizer
from rayrec.embeddings.source_views import FIELDS, FeatureScaler, View, ViewBuilder
from rayrec.embeddings.training_windows import TrainingExamples, TrainingWindow
from rayrec.embeddings.user_events import Items
from rayrec.embeddings.user_model import UserModel, build
from rayrec.embeddings.word_vocabulary import PAD, Vocabulary
from rayrec.numerics.collectives import SINGLE_WORKER, Worker
from rayrec.numerics.ridge_blocks import single_thread

_MIN_INITIAL = 1e-2  # relative to the standard deviation; smaller vectors stay random


@dataclass(frozen=True)
class TrainedModel:
    model: UserModel
    vocabulary: Vocabulary
    scaler: FeatureScaler
    curve: tuple[Mapping[str, float], ...]  # one row per epoch: loss and (with held-out users) validation, nats
    epochs: int  # epoch of the weights: the best on validation, else the last


def train(
    settings: Embeddings,
    windows: Sequence[TrainingWindow],
    items: Items,
    after_epoch: Callable[[TrainingLoop], None] = lambda loop: None,
    *,
    worker: Worker = SINGLE_WORKER,
    checkpoint: bytes | None = None,
) -> TrainedModel:
    """Run one worker's part of the training; all workers end with the same weights. `checkpoint`: of a `TrainingLoop`.

    Raises DataError if there is no training data.
    """
    with single_thread():
        vocabulary = _vocabulary(settings, windows, items)
        scaler = FeatureScaler.learn([window.before for window in windows], items)
        view_builder = ViewBuilder(settings, vocabulary, scaler, items)
        tokenize = text_tokenizer(settings.model, vocabulary)
        examples = [TrainingExamples.of(settings, window, view_builder(window.before), tokenize) for window in windows]
        model = build(
            settings.model, tuple(settings.views), vocabulary.size, vocabulary.lm_size, settings.training.seed
        )
        loop = TrainingLoop(model, examples, settings.training, worker)
        if checkpoint is None:
            _initialize_words(model, examples)
        else:
            loop.resume(checkpoint)
        loop.run(after_epoch)
    curve = tuple(loop.progress.curve)
    return TrainedModel(model.eval().requires_grad_(False), vocabulary, scaler, curve, loop.progress.best_epoch)


def initial_word_vectors(windows: Iterable[Mapping[str, View]], words: int, width: int) -> npt.NDArray[np.float32]:
    """Compute latent semantic vectors of words, float32 [words, width], standard deviation 1; zero for unused words.

    The right singular vectors, times the singular values, of the matrix users x words in tf-idf (log(1 + count), rows
    of length 1). Each user of each window is a row.
    """
    rows, columns, users = [], [], 0
    for views in windows:
        for view in views.values():
            mask = view.words != PAD
            of_line = users + np.repeat(np.arange(len(view.lengths)), view.lengths)
            rows.append(np.repeat(of_line, view.words.shape[1])[mask.ravel()])
            columns.append(view.words[mask])
        users += len(view.lengths)
    cells = np.concatenate(rows), np.concatenate(columns)
    matrix = sp.csr_matrix((np.ones(len(cells[0])), cells), shape=(users, words))
    matrix.data = np.log1p(matrix.data)
    seen = np.bincount(matrix.indices, minlength=words)
    matrix = matrix @ sp.diags(np.log((1 + users) / (1 + seen)))
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    matrix = sp.diags(1 / np.maximum(length, 1e-9)) @ matrix
    rank = min(width, users - 1, words - 1)
    out = np.zeros((words, width), np.float32)
    if rank > 0 and matrix.nnz:
        _, strength, directions = svds(matrix, k=rank, v0=np.ones(min(matrix.shape)))
        found = (directions.T * strength)[:, ::-1]
        out[:, :rank] = found / max(float(found[seen > 0].std()), 1e-9)
    return out


def _initialize_words(model: UserModel, examples: Sequence[TrainingExamples]) -> None:
    with torch.no_grad():
        start = initial_word_vectors([one.views for one in examples], *model.words.shape)
        informative = np.flatnonzero(np.abs(start).max(1) > _MIN_INITIAL)  # words that all users have stay random
        model.words[torch.from_numpy(informative)] = torch.from_numpy(start[informative]) * INIT_STD


def _vocabulary(settings: Embeddings, windows: Sequence[TrainingWindow], items: Items) -> Vocabulary:
    always = [instruction.text for instruction in settings.instructions.values() if instruction.answer]
    always += sorted({text for window in windows for one in window.answers if one.closed for text in one.text})
    counts = np.bincount(windows[0].before.item, minlength=len(items.item_id))
    known = [items.item_id[k] for k in np.flatnonzero(counts >= settings.training.min_item_events)]
    return Vocabulary.learn(items.text, always, FIELDS, known, settings.training.min_word_items)
