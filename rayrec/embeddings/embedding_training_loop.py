"""The training loop: plain torch, one process or several, with or without Ray.

Several workers see the same batches, and each reads its share of the users. The answers of a batch, which are the
negatives of everybody in it, are read by all of them: so the gradients of the shares add up to that of the whole batch,
and the number of workers changes the result by rounding only. Everything random comes from (seed, epoch): a loop that
is killed and goes on from its last checkpoint ends with the very weights of an uninterrupted one (on CPU).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from rayrec.config.embeddings_section import EmbeddingTraining
from rayrec.embeddings.batches import padded
from rayrec.embeddings.embedding_examples import Examples, Ids, Users, batches
from rayrec.embeddings.losses import answer_nll, info_nce
from rayrec.embeddings.user_model import UserModel
from rayrec.embeddings.view_vocabulary import PAD
from rayrec.errors import DataError
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import derive_seed

_WARMUP = 30  # steps
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # that AdamW keeps of a parameter


@dataclass
class Progress:
    """Where the training stands; with the tensors of `Loop`, all that a checkpoint holds."""

    epoch: int = 0  # epochs done
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)  # an epoch: loss and validation, nats
    best: float = math.inf
    best_epoch: int = 0


class TrainingLoop:
    """Build it, `resume` if there is a checkpoint, then `run`."""

    def __init__(
        self, model: UserModel, training_windows: Sequence[Examples], training: EmbeddingTraining, worker: Worker
    ) -> None:
        self.model, self.progress = model, Progress()
        self._lessons, self._training, self._worker = training_windows, training, worker
        self._trained = model.learned()
        self._best: dict[str, Tensor] = {}
        plain = [p for p in self._trained.values() if p.ndim < 2]
        matrices = [p for p in self._trained.values() if p.ndim >= 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": training.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=training.learning_rate,
            betas=(0.9, 0.98),
        )
        self._steps = training.epochs * sum(
            -(-len(one.train_users) // training.batch_users) for one in training_windows
        )

    def run(self, after_epoch: Callable[[TrainingLoop], None]) -> None:
        """Epoch after epoch, until those held out are judged no better or all are done; the best one's weights stay.

        `after_epoch` is called with the loop after each (to report, and to keep a checkpoint). Raises DataError where
        there is nothing to learn from.
        """
        if not self._steps:
            raise DataError(
                "there is nothing to train the embeddings on: no user has an answer within the horizon after a cut",
                hint="give more days (data.window_days), or change embeddings.horizon_days and embeddings.training.cutoffs",
            )
        progress, training = self.progress, self._training
        while progress.epoch < training.epochs and progress.epoch - progress.best_epoch < training.patience:
            row = {"epoch": float(progress.epoch + 1), "loss": self._epoch(progress.epoch + 1)}
            progress.epoch += 1
            judged = self._judge()
            if judged is not None:
                row["validation"] = judged
            if judged is None or judged < progress.best:
                progress.best, progress.best_epoch = math.inf if judged is None else judged, progress.epoch
                self._best = {name: p.detach().clone() for name, p in self._trained.items()}
            progress.curve.append(row)
            after_epoch(self)
        self._load(self._best)

    def checkpoint(self) -> bytes:
        """Everything that `resume` needs, as safetensors."""
        tensors = {f"weight.{name}": p.detach() for name, p in self._trained.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for name, parameter in self._trained.items():
            tensors |= {f"{key}.{name}": value for key, value in self._optimizer.state[parameter].items()}
        plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
        data: bytes = safetensors.torch.save(plain, {"progress": json.dumps(vars(self.progress))})
        return data

    def resume(self, data: bytes) -> None:
        """Go on from a checkpoint of the same training. Raises DataError if it is not one."""
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            progress = Progress(**json.loads(header["__metadata__"]["progress"]))
            self._load({name: tensors[f"weight.{name}"] for name in self._trained})
            self._best = {name: tensors[f"best.{name}"] for name in self._trained}
            for name, parameter in self._trained.items():
                moments = {key: tensors[f"{key}.{name}"] for key in _MOMENTS if f"{key}.{name}" in tensors}
                self._optimizer.state[parameter] = moments
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise DataError(
                f"the checkpoint cannot be used: {error}", hint="delete it; the training starts afresh"
            ) from None
        self.progress = progress

    def loss(self, one: Examples, users: Users, rng: np.random.Generator, *, train: bool = True) -> Tensor:
        """This worker's part of the loss of a batch, which is the mean over the batch's examples, nats."""
        training, worker = self._training, self._worker
        pairs = one.sample_questions(users, training.questions, rng)
        mine = np.arange(worker.rank, len(users), worker.world_size)
        summaries, present = [], []
        for name, view in one.views.items():
            lines = padded(view, users, len(users), max(1, int(view.lengths[users].max(initial=0))))
            there, has = lines.there, torch.from_numpy(view.present[users])
            if train:
                kept = (torch.rand(there.shape) >= training.line_dropout) | (there.sum(1, keepdim=True) == 1)
                there = there & kept  # a source's only line goes with the source or not at all
                has = has & (torch.rand(has.shape) >= training.view_dropout)
            summaries.append(self.model.summary(name, lines.words[mine], lines.weight[mine], there[mine]))
            present.append(has[mine])
        own = [(place // worker.world_size, k) for place, k in pairs if place % worker.world_size == worker.rank]
        if not own:
            return torch.zeros(())
        prefix = self.model.prefix(torch.stack(summaries, 1), torch.stack(present, 1))
        answers: dict[Ids, int] = {}
        for place, k in pairs:
            answers.setdefault(one.answer_tokens[k][users[place]], k)
        return len(own) / len(pairs) * _mean_loss(self.model, one, users[mine], prefix, own, answers, training)

    def _epoch(self, epoch: int) -> float:
        """The mean of the batches' losses."""
        rng = np.random.default_rng(derive_seed("epoch", self._training.seed, epoch))
        torch.manual_seed(derive_seed("dropout", self._training.seed, epoch) % 2**63)
        self.model.train()
        losses = [self._step(one, users, rng) for one, users in batches(self._lessons, self._training.batch_users, rng)]
        (shared,) = self._worker.all_reduce_sum([torch.tensor(losses, dtype=torch.float64)])
        return float(shared.mean())

    def _step(self, one: Examples, users: Users, rng: np.random.Generator) -> float:
        self._optimizer.zero_grad()
        loss = self.loss(one, users, rng)
        if loss.requires_grad:  # there are users for every worker
            loss.backward()  # type: ignore[no-untyped-call]
        if self._worker.world_size > 1:
            parameters = list(self._trained.values())
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
            for parameter, gradient in zip(parameters, self._worker.all_reduce_sum(gradients), strict=True):
                parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        self._optimizer.step()
        self.progress.step += 1
        return float(loss.detach())

    def _rate(self) -> float:
        step = self.progress.step
        cosine = 0.5 * (1 + math.cos(math.pi * step / self._steps))
        return self._training.learning_rate * min(1.0, (step + 1) / _WARMUP) * (0.05 + 0.95 * cosine)

    def _judge(self) -> float | None:
        """The loss on users held out, with nothing left out; None where there are none."""
        self.model.eval()
        size, parts, counts = self._training.batch_users, [0.0], 0
        rng = np.random.default_rng(derive_seed("validation", self._training.seed))
        with torch.no_grad():
            for one in self._lessons:
                for start in range(0, len(one.validation_users), size):
                    users = one.validation_users[start : start + size]
                    parts.append(float(self.loss(one, users, rng, train=False)) * len(users))
                    counts += len(users)
        (total,) = self._worker.all_reduce_sum([torch.tensor(sum(parts), dtype=torch.float64)])
        return float(total) / counts if counts else None

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(tensors[name])


def _mean_loss(
    model: UserModel,
    one: Examples,
    users: Users,
    prefix: Tensor,
    pairs: Sequence[tuple[int, int]],
    asked_first: Mapping[Ids, int],
    training: EmbeddingTraining,
) -> Tensor:
    """Of the examples `pairs` of `users`, whose prefixes these are: (place, question).

    `asked_first`: the distinct answers of the whole batch, each with the question that it answers.
    """
    place, question = (torch.tensor(column) for column in zip(*pairs, strict=True))
    answers = [one.answer_tokens[k][users[row]] for row, k in pairs]
    asked = [one.questions[k] for _, k in pairs]
    tokens = _rows([(*q, PAD, *a) for q, a in zip(asked, answers, strict=True)])
    user_at = torch.tensor([len(q) for q in asked])
    states = model.read_examples(prefix, place, tokens, user_at)
    rows = torch.arange(len(pairs))

    distinct = {ids: k for k, ids in enumerate(asked_first)}
    closed = torch.from_numpy(one.closed)[question]
    contrary = closed[:, None] & (question[:, None] == torch.tensor(list(asked_first.values()))[None, :])
    apart = info_nce(
        model.unit_user(states[rows, user_at]),
        model.answers(_rows(list(distinct)), torch.tensor([len(ids) for ids in distinct])),
        torch.tensor([distinct[ids] for ids in answers]),
        contrary,
        training.temperature,
        training.false_negative_margin,
    )
    lengths = torch.tensor([len(ids) for ids in answers])
    example = torch.repeat_interleave(rows, lengths)
    word = torch.arange(len(example)) - (torch.cumsum(lengths, 0) - lengths)[example]
    at = user_at[example] + word  # the state before a word says it
    words = tokens[example, at + 1]
    spoken = answer_nll(model.llm.logits(states[example, at]), words, example, closed)
    return training.contrastive * apart + training.autoregressive * spoken


def _rows(sequences: Sequence[Ids]) -> Tensor:
    """int64 [rows, longest], PAD to the right."""
    longest = max(len(ids) for ids in sequences)
    return torch.tensor([[*ids, *[PAD] * (longest - len(ids))] for ids in sequences])
