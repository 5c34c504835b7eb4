"""The tuning loop: plain torch, one process or several, with or without Ray.

All workers build the same batches and each takes its share of the rows. Gradients are summed, so the number of workers
changes the result by rounding only. All randomness is derived from (seed, epoch): a loop that is killed and resumed
from its checkpoint ends with exactly the weights of an uninterrupted one (on CPU).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rayrec.config import Tuning
from rayrec.errors import DataError
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import derive_seed
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.training import loop_checkpoint
from rayrec.reranking.training.request_augmentation import RequestAugmentation
from rayrec.reranking.training.request_examples import add_request_examples
from rayrec.reranking.training.tuning_examples import (
    Batch,
    Sequences,
    TuningExamples,
    batches,
    collate,
    epoch_examples,
    validation_examples,
)
from rayrec.reranking.training.tuning_loss import ItemLoss, SampledItems

_LOG = logging.getLogger(__name__)
_WARMUP = 30  # steps


@dataclass
class TuningProgress:
    """The state of the tuning except tensors; a checkpoint has both."""

    epoch: int = 0  # completed
    step: int = 0
    steps: int = 0  # planned, for the learning rate
    curve: list[dict[str, float]] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = 0
    stopped: bool = False


@dataclass(frozen=True)
class TuningTask:
    """The data and settings of a tuning."""

    events: Sequences  # all before `now`
    validation_events: Sequences | None  # also has later events; None: no validation
    now: int
    settings: Tuning
    stop_after: int | None = None  # epochs to run; `settings.max_epochs` still sets the learning rate schedule
    augmentation: RequestAugmentation | None = None  # None: prompts have no requests


class TuningLoop:
    """Trains a model: construct, `resume` if there is a checkpoint, then `run`."""

    def __init__(self, model: ItemLM, layout: PromptLayout, task: TuningTask, worker: Worker) -> None:
        self.model = model.to(worker.device)
        self.progress = TuningProgress()
        self._layout, self._task, self._worker = layout, task, worker
        self._trained = model.trainable_parameters()
        self._best: dict[str, Tensor] = {}
        self._loss = ItemLoss.of(task.augmentation, model.vocabulary.items, worker.device)
        self._optimizer = torch.optim.AdamW(_parameter_groups(self._trained, task.settings), betas=(0.9, 0.98))
        self._validation = (
            None
            if task.validation_events is None
            else self._with_requests(
                validation_examples(task.validation_events, layout, task.now),
                np.random.default_rng(derive_seed("validation", task.settings.seed)),
            )
        )

    def run(self, after_epoch: Callable[[TuningLoop], None]) -> None:
        """Run all epochs; `after_epoch` is called with the loop after each (to report, and to store a checkpoint)."""
        settings, progress = self._task.settings, self.progress
        last = self._task.stop_after or settings.max_epochs
        while progress.epoch < last and not progress.stopped:
            started = time.monotonic()
            loss, tokens = self._epoch()
            progress.epoch += 1
            row = {"epoch": progress.epoch, "loss": loss, "tokens": tokens, "seconds": time.monotonic() - started}
            row["planned"] = last
            if self._validation is not None:
                # All workers must stop at the same epoch, although their last bits may differ.
                row["validation"] = self._worker.broadcast_first(self.validate())
                self._keep_best(row["validation"])
            progress.curve.append(row)
            after_epoch(self)
        if self._best:
            loop_checkpoint.load_parameters(self._trained, self._best)

    def validate(self) -> float:
        """Mean negative log likelihood of the validation targets, nats; infinite without targets."""
        assert self._validation is not None
        self.model.eval()
        total = weight = 0.0
        with torch.no_grad():
            vectors = self.model.vectors()
            for rows in batches(self._validation, self._task.settings.batch_tokens, None):
                batch = collate(self._validation, rows, self._layout.vocabulary.pad)
                total += float(sum(self._loss.loss_chunks(self._query_states(batch, vectors), vectors, batch)))
                weight += float(batch.weight.sum())
        return total / weight if weight else math.inf

    def checkpoint(self) -> bytes:
        """Everything that `resume` needs, as safetensors."""
        return loop_checkpoint.save(self._trained, self._optimizer, vars(self.progress), self._best)

    def resume(self, data: bytes) -> None:
        """Continue from a checkpoint of the same task. Raises DataError for an invalid one."""
        progress, self._best = loop_checkpoint.restore(data, self._trained, self._optimizer)
        self.progress = TuningProgress(**progress)

    def _epoch(self) -> tuple[float, int]:
        """Run an epoch: (mean loss, tokens of all prompts)."""
        settings, progress = self._task.settings, self.progress
        rng = np.random.default_rng(derive_seed("epoch", settings.seed, progress.epoch))
        torch.manual_seed(derive_seed("dropout", settings.seed, progress.epoch, self._worker.rank))
        plain = epoch_examples(self._task.events, self._layout, settings, self._task.now, rng)
        examples = self._with_requests(plain, rng)
        plan = batches(examples, settings.batch_tokens, rng)
        if not plan or not len(examples.target.values):
            raise DataError(
                "there is nothing to tune the model on: no user has two groups of events with known items",
                hint="give more days (data.window_days), lower tuning.min_item_events, or set rerank.method: none",
            )
        progress.steps = progress.steps or len(plan) * settings.max_epochs
        # Divide by the mean weight of all batches, not by the batch's own, so that a target counts the same in every
        # batch.
        scale = len(plan) / float(examples.weight.values.sum())
        self.model.train()
        total = torch.zeros((), dtype=torch.float64)
        for rows in plan:
            total += self._step(examples, rows, scale)
        (total,) = self._worker.all_reduce_sum([total.to(self._worker.device)])
        return float(total) / len(plan), int(examples.tokens.lengths.sum())

    def _step(self, examples: TuningExamples, of_all_workers: np.ndarray[Any, Any], scale: float) -> float:
        self._optimizer.zero_grad(set_to_none=False)
        loss, rows = 0.0, of_all_workers[self._worker.rank :: self._worker.world_size]
        if len(rows):
            pad = self._layout.vocabulary.pad
            batch = collate(examples, rows, pad)
            vectors = self.model.vectors()
            outputs = self._query_states(batch, vectors), vectors
            # Logits take the most memory: they are computed, used and freed in chunks, before one backward pass.
            leaves = [tensor.detach().requires_grad_() for tensor in outputs]
            weight = self._task.settings.instruction_loss_weight
            whole = batch if len(rows) == len(of_all_workers) else collate(examples, of_all_workers, pad)
            sampled = self._sampled_items(whole.target)
            for chunk in self._loss.loss_chunks(leaves[0], leaves[1], batch, sampled, weight):
                torch.autograd.backward(chunk * scale)
                loss += float(chunk.detach()) * scale
            # Empty if no target of these rows is among the sampled items.
            used = [n for n, leaf in enumerate(leaves) if leaf.grad is not None]
            torch.autograd.backward([outputs[n] for n in used], [leaves[n].grad for n in used])
        self._worker.sum_gradients(self._trained.values())
        torch.nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * self._rate()
        self._optimizer.step()
        self.progress.step += 1
        return loss

    def _sampled_items(self, targets: np.ndarray[Any, Any]) -> SampledItems:
        """The items of the softmax in this step, the same for all workers; `targets`: those of all their rows."""
        rng = np.random.default_rng(derive_seed("new items", self._task.settings.seed, self.progress.step))
        return SampledItems.sample(len(self.model.items), self.model.vocabulary.items, rng, targets)

    def _query_states(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Final hidden states of the queries, float32 [queries, width]."""
        device = self._worker.device
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            states = self.model(torch.from_numpy(batch.tokens).to(device), vectors).flatten(0, 1)
        queries: Tensor = states[torch.from_numpy(batch.place).to(device)].float()
        return queries

    def _with_requests(self, examples: TuningExamples, rng: np.random.Generator) -> TuningExamples:
        augmentation = self._task.augmentation
        return examples if augmentation is None else add_request_examples(examples, self._layout, augmentation, rng)

    def _rate(self) -> float:
        """The learning rate of this step, as a share of the peak."""
        step, steps = self.progress.step, max(self.progress.steps, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        return min(1.0, (step + 1) / _WARMUP) * (0.05 + 0.95 * cosine)

    def _keep_best(self, loss: float) -> None:
        progress = self.progress
        if loss < progress.best:
            progress.best, progress.best_epoch = loss, progress.epoch
            self._best = {name: p.detach().clone() for name, p in self._trained.items()}
        progress.stopped = progress.epoch - progress.best_epoch >= self._task.settings.patience


def _parameter_groups(parameters: Mapping[str, nn.Parameter], settings: Tuning) -> list[dict[str, Any]]:
    """Groups of an optimizer: a base's own weights and adapters learn at `base_rate`, everything else at
    `learning_rate`; vectors do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        of_base = settings.base != "scratch" and name.startswith("causal.")
        peak = settings.base_rate if of_base else settings.learning_rate
        groups.setdefault((peak, settings.weight_decay if parameter.ndim >= 2 else 0.0), []).append(parameter)
    return [{"params": each, "lr": peak, "peak": peak, "weight_decay": decay} for (peak, decay), each in groups.items()]
