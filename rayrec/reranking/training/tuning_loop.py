"""The training loop: plain torch, one process or several, with or without Ray.

Several workers see the same batches and each takes its share of the rows; gradients are summed, so the number of
workers changes the result by rounding only. Everything random comes from (seed, epoch): a loop that is killed and goes
on from its last checkpoint ends with the very weights of an uninterrupted one (on CPU).
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from rayrec.config import Tuning
from rayrec.errors import DataError
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import derive_seed
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.training.instruction_examples import add_request_examples
from rayrec.reranking.training.prompt_augmentation import RequestAugmentation
from rayrec.reranking.training.tuning_data import Batch, Sequences, TuningExamples, batches, collate, epoch, validation
from rayrec.reranking.training.tuning_loss import ItemLoss, SampledItems, text_loss_chunks

_LOG = logging.getLogger(__name__)
_WARMUP = 30  # steps


@dataclass
class TuningProgress:
    """Where the tuning stands; with the tensors of `_State`, all that a checkpoint holds."""

    epoch: int = 0  # epochs done
    step: int = 0
    steps: int = 0  # planned, for the learning rate
    curve: list[dict[str, float]] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = 0
    stopped: bool = False


@dataclass(frozen=True)
class TuningTask:
    """What to learn from: `events`, all before `now`. `judged`: these and later events, to judge epochs by.

    `stop_after`: epochs to run, of the `settings.epochs` that the learning rate is planned for. `asking`: how prompts
    ask for something; None: they do not.
    """

    events: Sequences
    validation_events: Sequences | None
    now: int
    settings: Tuning
    stop_after: int | None = None
    augmentation: RequestAugmentation | None = None


class TuningLoop:
    """Build it, `resume` if there is a checkpoint, then `run`."""

    def __init__(self, model: ItemLM, layout: PromptLayout, task: TuningTask, worker: Worker) -> None:
        self.model = model.to(worker.device)
        self.progress = TuningProgress()
        self._layout, self._task, self._worker = layout, task, worker
        self._trained = model.trainable_parameters()
        self._best: dict[str, Tensor] = {}
        self._loss = ItemLoss.of(task.augmentation, model.vocabulary.items, worker.device)
        plain = [p for p in self._trained.values() if p.ndim < 2]
        matrices = [p for p in self._trained.values() if p.ndim >= 2]
        decay = task.settings.weight_decay
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}],
            lr=task.settings.learning_rate,
            betas=(0.9, 0.98),
        )
        self._validation = (
            None
            if task.validation_events is None
            else _requested(
                validation(task.validation_events, layout, task.now),
                layout,
                task.augmentation and task.augmentation.of_items,  # judged as it will be used: it is asked for items
                np.random.default_rng(derive_seed("validation", task.settings.seed)),
            )
        )

    def run(self, after_epoch: Callable[[TuningLoop], None]) -> None:
        """Epoch after epoch; `after_epoch` is called with the loop after each (to report, and to keep a checkpoint)."""
        settings, progress = self._task.settings, self.progress
        last = self._task.stop_after or settings.epochs
        while progress.epoch < last and not progress.stopped:
            started = time.monotonic()
            loss, tokens = self._epoch()
            progress.epoch += 1
            row = {"epoch": progress.epoch, "loss": loss, "tokens": tokens, "seconds": time.monotonic() - started}
            if self._validation is not None:
                # All stop at the same epoch and keep the same one, though their last bits may differ.
                row["validation"] = self._worker.broadcast_first(self.validate())
                self._keep_best(row["validation"])
            progress.curve.append(row)
            after_epoch(self)
        if self._best:
            self._load(self._best)

    def validate(self) -> float:
        """Mean negative log likelihood of what the users took next, nats a target; infinite where nobody is judged."""
        assert self._validation is not None
        self.model.eval()
        total = weight = 0.0
        with torch.no_grad():
            vectors = self.model.vectors()
            for rows in batches(self._validation, self._task.settings.batch_tokens, None):
                batch = collate(self._validation, rows, self._layout.vocabulary.pad)
                states, _ = self._states(batch, vectors)
                total += float(sum(self._loss.loss_chunks(states, vectors, batch)))
                weight += float(batch.weight.sum())
        return total / weight if weight else math.inf

    def checkpoint(self) -> bytes:
        """Everything that `resume` needs, as safetensors."""
        tensors = {f"weight.{name}": p.detach() for name, p in self._trained.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for name, parameter in self._trained.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        data: bytes = safetensors.torch.save(plain, {"progress": json.dumps(vars(self.progress))})
        return data

    def resume(self, data: bytes) -> None:
        """Go on from a checkpoint of the same task. Raises DataError if it is not one."""
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            progress = json.loads(header["__metadata__"]["progress"])
            self._load({name: tensors[f"weight.{name}"] for name in self._trained})
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise DataError(
                f"the checkpoint cannot be used: {error}", hint="delete it; the tuning starts afresh"
            ) from None
        self.progress = TuningProgress(**progress)
        self._best = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("best.")}
        for name, parameter in self._trained.items():
            self._optimizer.state[parameter] = {
                key: tensors[f"{key}.{name}"].to("cpu" if key == "step" else parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in tensors
            }

    def _epoch(self) -> tuple[float, int]:
        """(mean loss, tokens read)."""
        settings, progress = self._task.settings, self.progress
        rng = np.random.default_rng(derive_seed("epoch", settings.seed, progress.epoch))
        torch.manual_seed(derive_seed("dropout", settings.seed, progress.epoch, self._worker.rank))
        plain = epoch(self._task.events, self._layout, settings, self._task.now, rng)
        examples = _requested(plain, self._layout, self._task.augmentation, rng)
        plan = batches(examples, settings.batch_tokens, rng)
        if not plan or not len(examples.target.values):
            raise DataError(
                "there is nothing to tune the model on: no user has two groups of events with known items",
                hint="give more days (data.window_days), lower tuning.min_item_events, or set rerank.method: none",
            )
        progress.steps = progress.steps or len(plan) * settings.epochs
        # Every target weighs the same in whatever batch it stands: divide by a batch's mean weight, not by its own.
        scale = len(plan) / examples.total_weight
        self.model.train()
        total = torch.zeros((), dtype=torch.float64)
        for rows in plan:
            total += self._step(examples, rows[self._worker.rank :: self._worker.world_size], scale)
        (total,) = self._worker.all_reduce_sum([total.to(self._worker.device)])
        return float(total) / len(plan), int(examples.tokens.lengths.sum())

    def _step(self, examples: TuningExamples, rows: np.ndarray[Any, Any], scale: float) -> float:
        self._optimizer.zero_grad(set_to_none=False)
        loss = 0.0
        if len(rows):
            batch = collate(examples, rows, self._layout.vocabulary.pad)
            vectors = self.model.vectors()
            outputs = *self._states(batch, vectors), vectors
            # The logits are the largest thing here: made, used and dropped piece by piece, then one pass backwards.
            leaves = [tensor.detach().requires_grad_() for tensor in outputs]
            asking, speaking, items = leaves
            instruction_loss_weight = self._task.settings.instruction_loss_weight
            for piece in chain(
                self._loss.loss_chunks(asking, items, batch, self._crowd(), instruction_loss_weight),
                text_loss_chunks(speaking, self.model.word_output_vectors(), batch),
            ):
                torch.autograd.backward(piece * scale)
                loss += float(piece.detach()) * scale
            # None at all, where the rows hold no answer that this step shows.
            used = [n for n, leaf in enumerate(leaves) if leaf.grad is not None]
            torch.autograd.backward([outputs[n] for n in used], [leaves[n].grad for n in used])
        self._sum_gradients()
        torch.nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        self._optimizer.step()
        self.progress.step += 1
        return loss

    def _crowd(self) -> SampledItems:
        """The items of this step, the same for all workers."""
        rng = np.random.default_rng(derive_seed("new items", self._task.settings.seed, self.progress.step))
        return SampledItems.sample(len(self.model.items), self.model.vocabulary.items, rng)

    def _states(self, batch: Batch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Final hidden states, float32: of the tokens that ask for items [queries, width], and of those before words
        that are to be said [words, width]."""
        device = self._worker.device
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            states = self.model(torch.from_numpy(batch.tokens).to(device), vectors).flatten(0, 1)
        asking, speaking = (
            states[torch.from_numpy(at).to(device)].float() for at in (batch.place, batch.text_position)
        )
        return asking, speaking

    def _sum_gradients(self) -> None:
        if self._worker.world_size == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._trained.values()]
        for parameter, gradient in zip(self._trained.values(), self._worker.all_reduce_sum(gradients), strict=True):
            parameter.grad = gradient

    def _rate(self) -> float:
        step, steps = self.progress.step, max(self.progress.steps, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        return self._task.settings.learning_rate * min(1.0, (step + 1) / _WARMUP) * (0.05 + 0.95 * cosine)

    def _keep_best(self, judged: float) -> None:
        progress = self.progress
        if judged < progress.best:
            progress.best, progress.best_epoch = judged, progress.epoch
            self._best = {name: p.detach().clone() for name, p in self._trained.items()}
        progress.stopped = progress.epoch - progress.best_epoch >= self._task.settings.patience

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(tensors[name])


def _requested(
    examples: TuningExamples, layout: PromptLayout, asking: RequestAugmentation | None, rng: np.random.Generator
) -> TuningExamples:
    return examples if asking is None else add_request_examples(examples, layout, asking, rng)
