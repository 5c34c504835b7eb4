"""The training loop of the user model, in plain torch for one or several workers.

All workers process the same batches, and each encodes its share of the users. The answers of a batch are the negatives
of all users, so every worker encodes all answers: the shares' gradients sum to that of the whole batch, and the number
of workers changes the result by rounding only. All randomness is seeded by (seed, epoch): a loop that is killed and
resumed from its last checkpoint ends with the weights of an uninterrupted one (on CPU).
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
from rayrec.embeddings.embedding_losses import answer_nll, info_nce
from rayrec.embeddings.training_windows import TokenIds, TrainingExamples, Users, batches
from rayrec.embeddings.user_model import UserModel
from rayrec.embeddings.word_vocabulary import PAD
from rayrec.errors import DataError
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import derive_seed

_WARMUP = 30  # steps
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of a parameter


@dataclass
class Progress:
    """Progress of the training. A checkpoint holds this and the tensors of `TrainingLoop`."""

    epoch: int = 0  # completed epochs
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)  # one row per epoch: loss and validation, nats
    best: float = math.inf
    best_epoch: int = 0


class TrainingLoop:
    """Training of one worker: create it, `resume` it from a checkpoint if there is one, then `run` it."""

    def __init__(
        self, model: UserModel, examples: Sequence[TrainingExamples], training: EmbeddingTraining, worker: Worker
    ) -> None:
        self.model, self.progress = model, Progress()
        self._examples, self._training, self._worker = examples, training, worker
        self._trained = model.learned()
        self._best: dict[str, Tensor] = {}
        plain = [p for p in self._trained.values() if p.ndim < 2]
        matrices = [p for p in self._trained.values() if p.ndim >= 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": training.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=training.learning_rate,
            betas=(0.9, 0.98),
        )
        self._steps = training.epochs * sum(-(-len(one.train_users) // training.batch_users) for one in examples)

    def run(self, after_epoch: Callable[[TrainingLoop], None]) -> None:
        """Train until validation stops improving or all epochs are done, and restore the best epoch's weights.

        `after_epoch` is called with the loop after each epoch (to report, and to save a checkpoint). Raises DataError
        if there is no training data.
        """
        if not self._steps:
            raise DataError(
                "there is nothing to train the embeddings on: no user has an answer in the horizon after a cutoff",
                hint="raise data.window_days, or change embeddings.horizon_days or embeddings.training.cutoffs",
            )
        progress, training = self.progress, self._training
        while progress.epoch < training.epochs and progress.epoch - progress.best_epoch < training.patience:
            row = {"epoch": float(progress.epoch + 1), "loss": self._epoch(progress.epoch + 1)}
            progress.epoch += 1
            validation = self._validation_loss()
            if validation is not None:
                row["validation"] = validation
            if validation is None or validation < progress.best:
                progress.best, progress.best_epoch = math.inf if validation is None else validation, progress.epoch
                self._best = {name: p.detach().clone() for name, p in self._trained.items()}
            progress.curve.append(row)
            after_epoch(self)
        self._load(self._best)

    def checkpoint(self) -> bytes:
        """The complete state for `resume`, as safetensors."""
        tensors = {f"weight.{name}": p.detach() for name, p in self._trained.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for name, parameter in self._trained.items():
            tensors |= {f"{key}.{name}": value for key, value in self._optimizer.state[parameter].items()}
        plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
        data: bytes = safetensors.torch.save(plain, {"progress": json.dumps(vars(self.progress))})
        return data

    def resume(self, data: bytes) -> None:
        """Continue from a checkpoint of the same training. Raises DataError if it is not one."""
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
                f"the checkpoint cannot be used: {error}", hint="delete it; the training then starts from the beginning"
            ) from None
        self.progress = progress

    def loss(self, one: TrainingExamples, users: Users, rng: np.random.Generator, *, train: bool = True) -> Tensor:
        """This worker's part of the batch loss, the mean over the batch's examples, nats. `train`: with dropout."""
        training, worker = self._training, self._worker
        pairs = one.sample_questions(users, training.instructions_per_user, rng)
        mine = np.arange(worker.rank, len(users), worker.world_size)
        summaries, present = [], []
        for name, view in one.views.items():
            lines = view.padded(users, len(users), max(1, int(view.lengths[users].max(initial=0))))
            mask, has = lines.mask, torch.from_numpy(view.present[users])
            if train:
                retained = (torch.rand(mask.shape) >= training.line_dropout) | (mask.sum(1, keepdim=True) == 1)
                mask = mask & retained  # the only line of a source is not dropped
                has = has & (torch.rand(has.shape) >= training.view_dropout)
            summaries.append(self.model.summary(name, lines.words[mine], lines.weight[mine], mask[mine]))
            present.append(has[mine])
        own = [(place // worker.world_size, k) for place, k in pairs if place % worker.world_size == worker.rank]
        if not own:
            return torch.zeros(())
        prefix = self.model.prefix(torch.stack(summaries, 1), torch.stack(present, 1))
        answers: dict[TokenIds, int] = {}
        for place, k in pairs:
            answers.setdefault(one.answer_tokens[k][users[place]], k)
        return len(own) / len(pairs) * _mean_loss(self.model, one, users[mine], prefix, own, answers, training)

    def _epoch(self, epoch: int) -> float:
        """Train one epoch and return the mean loss of its batches."""
        rng = np.random.default_rng(derive_seed("epoch", self._training.seed, epoch))
        torch.manual_seed(derive_seed("dropout", self._training.seed, epoch) % 2**63)
        self.model.train()
        losses = [
            self._step(one, users, rng) for one, users in batches(self._examples, self._training.batch_users, rng)
        ]
        (shared,) = self._worker.all_reduce_sum([torch.tensor(losses, dtype=torch.float64)])
        return float(shared.mean())

    def _step(self, one: TrainingExamples, users: Users, rng: np.random.Generator) -> float:
        self._optimizer.zero_grad()
        loss = self.loss(one, users, rng)
        if loss.requires_grad:  # False if this worker has no users in the batch
            loss.backward()  # type: ignore[no-untyped-call]
        self._worker.sum_gradients(self._trained.values())
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

    def _validation_loss(self) -> float | None:
        """Loss on held-out users without dropout; None if there are none."""
        self.model.eval()
        size, parts, counts = self._training.batch_users, [0.0], 0
        rng = np.random.default_rng(derive_seed("validation", self._training.seed))
        with torch.no_grad():
            for one in self._examples:
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
    one: TrainingExamples,
    users: Users,
    prefix: Tensor,
    pairs: Sequence[tuple[int, int]],
    batch_answers: Mapping[TokenIds, int],
    training: EmbeddingTraining,
) -> Tensor:
    """Mean loss of the examples `pairs`, (position in `users`, question), given the users' prefixes.

    `batch_answers`: the distinct answers of the whole batch, each with its question.
    """
    place, question = (torch.tensor(column) for column in zip(*pairs, strict=True))
    answers = [one.answer_tokens[k][users[row]] for row, k in pairs]
    questions = [one.questions[k] for _, k in pairs]
    tokens = _padded_tokens([(*q, PAD, *a) for q, a in zip(questions, answers, strict=True)])
    user_at = torch.tensor([len(q) for q in questions])
    states = model.example_states(prefix, place, tokens, user_at)
    rows = torch.arange(len(pairs))

    distinct = {ids: k for k, ids in enumerate(batch_answers)}
    closed = torch.from_numpy(one.closed)[question]
    contrary = closed[:, None] & (question[:, None] == torch.tensor(list(batch_answers.values()))[None, :])
    contrastive = info_nce(
        model.unit_user(states[rows, user_at]),
        model.answers(_padded_tokens(list(distinct)), torch.tensor([len(ids) for ids in distinct])),
        torch.tensor([distinct[ids] for ids in answers]),
        contrary,
        training.temperature,
        training.false_negative_margin,
    )
    lengths = torch.tensor([len(ids) for ids in answers])
    example = torch.repeat_interleave(rows, lengths)
    word = torch.arange(len(example)) - (torch.cumsum(lengths, 0) - lengths)[example]
    at = user_at[example] + word  # the state before a word predicts it
    words = tokens[example, at + 1]
    autoregressive = answer_nll(model.llm.logits(states[example, at]), words, example, closed)
    return training.contrastive_weight * contrastive + training.autoregressive_weight * autoregressive


def _padded_tokens(sequences: Sequence[TokenIds]) -> Tensor:
    """int64 [rows, longest], PAD on the right."""
    longest = max(len(ids) for ids in sequences)
    return torch.tensor([[*ids, *[PAD] * (longest - len(ids))] for ids in sequences])
