"""Training: a plain torch loop over examples from the past, on one machine. Same input, same weights (on CPU).

Users are asked at a few moments before the date; what they did within the horizon afterwards is the answer. A share of
the users, by their stable hash, is held out at every moment: they judge each epoch, and the best one is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayrec.config.embeddings import Embeddings, EmbeddingTraining
from rayrec.embeddings.batches import padded
from rayrec.embeddings.events import Items
from rayrec.embeddings.lessons import Lesson
from rayrec.embeddings.losses import info_nce, said
from rayrec.embeddings.model import SPREAD, UserModel, build
from rayrec.embeddings.start import start_words
from rayrec.embeddings.views import FIELDS, Scales, View, Viewer
from rayrec.embeddings.vocabulary import PAD, Vocabulary
from rayrec.errors import DataError
from rayrec.hashing import seed_of
from rayrec.ridge import one_thread

_WARMUP = 30  # steps
_LONGEST_ANSWER = 16  # words
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
    report: Callable[[Mapping[str, float]], None] = lambda row: None,
) -> Trained:
    """Raises DataError where there is nothing to learn from. `report` gets each epoch's row of the curve."""
    with one_thread():
        vocabulary = _vocabulary(settings, taught, items)
        scales = Scales.learn([lesson.before for lesson in taught], items)
        viewer = Viewer(settings, vocabulary, scales, items)
        classes = [_Class.of(settings, lesson, viewer(lesson.before), vocabulary) for lesson in taught]
        model = build(
            settings.model, tuple(settings.sources), vocabulary.size, vocabulary.spoken, settings.training.seed
        )
        with torch.no_grad():
            start = start_words([one.views for one in classes], *model.words.shape)
            there = np.flatnonzero(np.abs(start).max(1) > _FAINT)  # the others, which all users have, start at random
            model.words[torch.from_numpy(there)] = torch.from_numpy(start[there]) * SPREAD
        curve, epochs = _fit(model, classes, settings.training, report)
    return Trained(model.eval().requires_grad_(False), vocabulary, scales, curve, epochs)


@dataclass(frozen=True)
class _Class:
    """A lesson, ready for the model."""

    views: dict[str, View]
    questions: tuple[tuple[int, ...], ...]  # token ids of the taught instructions
    closed: npt.NDArray[np.bool_]  # [questions]
    said: tuple[tuple[tuple[int, ...], ...], ...]  # [questions][users]: token ids of the answer, none if there is none
    learning: npt.NDArray[np.int64]  # users
    judging: npt.NDArray[np.int64]

    @classmethod
    def of(cls, settings: Embeddings, lesson: Lesson, views: dict[str, View], vocabulary: Vocabulary) -> _Class:
        texts = [instruction.text for instruction in settings.instructions.values() if instruction.answer]
        ids: dict[str, tuple[int, ...]] = {}
        for text in itertools.chain.from_iterable(one.text for one in lesson.answers):
            if text not in ids:
                ids[text] = tuple(vocabulary.ids(text)[:_LONGEST_ANSWER])
        spoken = tuple(tuple(ids[text] for text in one.text) for one in lesson.answers)
        answered = np.array([[bool(a) for a in one] for one in spoken]).any(0)
        return cls(
            views,
            tuple(tuple(vocabulary.ids(text)) for text in texts),
            np.array([one.closed for one in lesson.answers]),
            spoken,
            np.flatnonzero(answered & ~lesson.held_out),
            np.flatnonzero(answered & lesson.held_out),
        )

    def asked(self, users: npt.NDArray[np.int64], most: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(place among `users`, question): at most `most` a user, drawn among those the log can answer."""
        pairs = []
        for place, user in enumerate(users):
            known = [k for k, answers in enumerate(self.said) if answers[user]]
            chosen = rng.permutation(len(known))[:most]
            pairs += [(place, known[k]) for k in sorted(chosen.tolist())]
        return pairs


def _fit(
    model: UserModel, classes: Sequence[_Class], training: EmbeddingTraining, report: Callable[..., None]
) -> tuple[tuple[Mapping[str, float], ...], int]:
    if not any(len(one.learning) for one in classes):
        raise DataError(
            "there is nothing to train the embeddings on: no user has an answer within the horizon after a cut",
            do="give more days (data.window_days), or change embeddings.horizon_days and embeddings.training.cuts",
        )
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": training.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=training.learning_rate,
        betas=(0.9, 0.98),
    )
    steps = training.epochs * sum(-(-len(one.learning) // training.batch_users) for one in classes)
    step, best, best_epoch = 0, np.inf, 0
    kept: dict[str, Tensor] = {}
    curve: list[Mapping[str, float]] = []
    for epoch in range(1, training.epochs + 1):
        rng = np.random.default_rng(seed_of("epoch", training.seed, epoch))
        torch.manual_seed(seed_of("dropout", training.seed, epoch) % 2**63)
        model.train()
        losses = []
        for one, users in _batches(classes, training.batch_users, rng):
            optimizer.zero_grad()
            loss = _loss(model, one, users, training, rng)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            rate = min(1.0, (step + 1) / _WARMUP) * (0.05 + 0.475 * (1 + np.cos(np.pi * step / steps)))
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * rate
            optimizer.step()
            step += 1
            losses.append(float(loss.detach()))
        judged = _judge(model, classes, training)
        row = {"epoch": epoch, "loss": float(np.mean(losses))}
        curve.append(row if judged is None else row | {"validation": judged})
        report(curve[-1])
        if judged is None or judged < best:
            best, best_epoch = np.inf if judged is None else judged, epoch
            kept = {name: p.detach().clone() for name, p in model.state_dict().items()}
        if epoch - best_epoch >= training.patience:
            break
    model.load_state_dict(kept)
    return tuple(curve), best_epoch


def _batches(
    classes: Sequence[_Class], size: int, rng: np.random.Generator
) -> Iterator[tuple[_Class, npt.NDArray[np.int64]]]:
    plan = []
    for one in classes:
        users = rng.permutation(one.learning)
        plan += [(one, users[start : start + size]) for start in range(0, len(users), size)]
    for k in rng.permutation(len(plan)):
        yield plan[k]


def _judge(model: UserModel, classes: Sequence[_Class], training: EmbeddingTraining) -> float | None:
    """The loss on users held out, with nothing left out; None where there are none."""
    model.eval()
    total, count = 0.0, 0
    rng = np.random.default_rng(seed_of("validation", training.seed))
    with torch.no_grad():
        for one in classes:
            for start in range(0, len(one.judging), training.batch_users):
                users = one.judging[start : start + training.batch_users]
                total += float(_loss(model, one, users, training, rng, learning=False)) * len(users)
                count += len(users)
    return total / count if count else None


def _loss(
    model: UserModel,
    one: _Class,
    users: npt.NDArray[np.int64],
    training: EmbeddingTraining,
    rng: np.random.Generator,
    *,
    learning: bool = True,
) -> Tensor:
    summaries, present = [], []
    for name, view in one.views.items():
        lines = padded(view, users, len(users), max(1, int(view.lengths[users].max(initial=0))))
        there, has = lines.there, torch.from_numpy(view.present[users])
        if learning:
            kept = (torch.rand(there.shape) >= training.line_dropout) | (there.sum(1, keepdim=True) == 1)
            there = there & kept  # a source's only line goes with the source or not at all
            has = has & (torch.rand(has.shape) >= training.source_dropout)
        summaries.append(model.summary(name, lines.words, lines.weight, there))
        present.append(has)
    prefix = model.prefix(torch.stack(summaries, 1), torch.stack(present, 1))
    pairs = one.asked(users, training.questions, rng)
    return _example_loss(model, one, users, prefix, pairs, training)


def _example_loss(
    model: UserModel,
    one: _Class,
    users: npt.NDArray[np.int64],
    prefix: Tensor,
    pairs: Sequence[tuple[int, int]],
    training: EmbeddingTraining,
) -> Tensor:
    place, question = (torch.tensor(column) for column in zip(*pairs, strict=True))
    answers = [one.said[k][users[row]] for row, k in pairs]
    asked = [one.questions[k] for _, k in pairs]
    tokens = _rows([(*q, PAD, *a) for q, a in zip(asked, answers, strict=True)])
    user_at = torch.tensor([len(q) for q in asked])
    states = model.read_examples(prefix, place, tokens, user_at)
    rows = torch.arange(len(pairs))

    distinct: dict[tuple[int, ...], int] = {}
    asked_first = []  # the question of each distinct answer
    for ids, (_, k) in zip(answers, pairs, strict=True):
        if ids not in distinct:
            distinct[ids] = len(distinct)
            asked_first.append(k)
    closed = torch.from_numpy(one.closed)[question]
    contrary = closed[:, None] & (question[:, None] == torch.tensor(asked_first)[None, :])
    vectors = model.answers(_rows(list(distinct)), torch.tensor([len(ids) for ids in distinct]))
    own = torch.tensor([distinct[ids] for ids in answers])
    apart = info_nce(
        model.unit_user(states[rows, user_at]),
        vectors,
        own,
        contrary,
        training.temperature,
        training.false_negative_margin,
    )
    lengths = torch.tensor([len(ids) for ids in answers])
    example = torch.repeat_interleave(rows, lengths)
    word = torch.arange(len(example)) - (torch.cumsum(lengths, 0) - lengths)[example]
    at = user_at[example] + word  # the state before a word says it
    words = tokens[example, at + 1]
    spoken = said(model.spoken_logits(states[example, at]), words, example, closed)
    return training.contrastive * apart + training.autoregressive * spoken


def _rows(sequences: Sequence[tuple[int, ...]]) -> Tensor:
    """int64 [rows, longest], PAD to the right."""
    longest = max(len(ids) for ids in sequences)
    return torch.tensor([[*ids, *[PAD] * (longest - len(ids))] for ids in sequences])


def _vocabulary(settings: Embeddings, taught: Sequence[Lesson], items: Items) -> Vocabulary:
    spoken = [instruction.text for instruction in settings.instructions.values() if instruction.answer]
    spoken += sorted({text for lesson in taught for one in lesson.answers if one.closed for text in one.text})
    counts = np.bincount(taught[0].before.item, minlength=len(items.item_id))
    known = [items.item_id[k] for k in np.flatnonzero(counts >= settings.training.min_item_events)]
    return Vocabulary.learn(items.text, spoken, FIELDS, known, settings.training.min_word_items)
