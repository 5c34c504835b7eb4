"""The tuning of a text reranker's adapter: plain torch, one process or several, with or without Ray.

The loss of a prompt is the negative log of the probability of its right answers among the scorer's answers, at the
prompt's last token: for `pointwise` the logistic loss of the score itself. No other token is a target.

Prompts of one user share their beginning, so they are packed into one row: the shared tokens, then each ending at the
positions after them, masked from the other endings. Gradients are summed over workers. All randomness derives from
(seed, epoch, user): a tuning that is killed and resumed ends with the weights of an uninterrupted one (on CPU).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayrec.config import TextTuning
from rayrec.errors import DataError
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import derive_seed
from rayrec.reranking.text.text_scorer import TextScorer
from rayrec.reranking.training import loop_checkpoint
from rayrec.reranking.training.text_examples import PackedPrompts, UserCandidates, packed_example

REPORT_STEPS = 20  # steps between two reports and checkpoints
_WARMUP = 10  # steps, or a tenth of all


@dataclass
class TextTuningProgress:
    """The state of the tuning except tensors."""

    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)  # one row per REPORT_STEPS


class TextTuningLoop:
    """Tunes a causal LM with LoRA on users' candidates: construct, `resume` if there is a checkpoint, then `run`."""

    def __init__(
        self, causal: Any, scorer: TextScorer, users: Sequence[UserCandidates], settings: TextTuning, worker: Worker
    ) -> None:
        if not users:
            raise DataError(
                "there is nothing to tune the text reranker on: no user consumed a candidate that would be scored",
                where="rerank.adapter",
                hint="give more days (data.window_days), raise rerank.depth, or leave rerank.adapter out",
            )
        self.causal = causal.to(worker.device)
        self.progress = TextTuningProgress()
        self._scorer, self._users, self._settings, self._worker = scorer, users, settings, worker
        self._trained = {name: p for name, p in causal.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(self._trained.values(), lr=settings.learning_rate, weight_decay=0.0)
        self._per_epoch = -(-len(users) // settings.batch_users)

    @property
    def steps(self) -> int:
        """Steps of the whole tuning."""
        return self._per_epoch * self._settings.epochs

    def run(self, after_round: Callable[[TextTuningLoop], None]) -> None:
        """Run all steps; `after_round` is called every REPORT_STEPS and at the end."""
        while self.progress.step < self.steps:
            started, losses, tokens = time.monotonic(), list[float](), 0
            while len(losses) < REPORT_STEPS and self.progress.step < self.steps:
                loss, computed = self._step()
                losses.append(loss)
                tokens += computed
            (mean,) = self._worker.all_reduce_sum([torch.tensor([sum(losses) / len(losses)], device=self._device)])
            row = {"step": self.progress.step, "loss": float(mean), "tokens": tokens}
            self.progress.curve.append({**row, "seconds": time.monotonic() - started})
            after_round(self)

    def checkpoint(self) -> bytes:
        """Everything that `resume` needs, as safetensors."""
        return loop_checkpoint.save(self._trained, self._optimizer, vars(self.progress))

    def resume(self, data: bytes) -> None:
        """Continue from a checkpoint of the same task. Raises DataError for an invalid one."""
        progress, _ = loop_checkpoint.restore(data, self._trained, self._optimizer)
        self.progress = TextTuningProgress(**progress)

    @property
    def _device(self) -> str:
        return self._worker.device

    def _step(self) -> tuple[float, int]:
        """This worker's part of the step's loss, and the tokens of the step."""
        settings, (epoch, place) = self._settings, divmod(self.progress.step, self._per_epoch)
        order = np.random.default_rng(derive_seed("text tuning order", settings.seed, epoch)).permutation(
            len(self._users)
        )
        rows = order[place * settings.batch_users :][: settings.batch_users]
        examples = [
            packed_example(self._scorer, self._users[row], settings.negatives, settings.seed, epoch) for row in rows
        ]
        total = sum(sum(example.weights) for example in examples)
        self.causal.train()
        self._optimizer.zero_grad(set_to_none=False)
        loss = 0.0
        own = examples[self._worker.rank :: self._worker.world_size]
        if own:
            part = answer_loss(self.causal, own, self._scorer.ids, self._device) / total
            part.backward()  # type: ignore[no-untyped-call]
            loss = float(part.detach())
        self._worker.sum_gradients(self._trained.values())
        torch.nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        self._optimizer.step()
        self.progress.step += 1
        return loss, sum(example.tokens for example in examples)

    def _rate(self) -> float:
        step, warmup = self.progress.step, max(1, min(_WARMUP, self.steps // 10))
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self._settings.learning_rate * min(1.0, (step + 1) / warmup) * (0.05 + 0.95 * cosine)


def answer_loss(causal: Any, examples: Sequence[PackedPrompts], ids: Sequence[int], device: str = "cpu") -> Tensor:
    """The weighted sum over the prompts of -log P(right answers | one of `ids`), nats."""
    logits = answer_logits(causal, examples, ids, device)
    right = torch.full(logits.shape, -math.inf, device=device)
    answers = [answer for example in examples for answer in example.answers]
    for row, places in enumerate(answers):
        right[row, list(places)] = 0
    weights = torch.tensor([weight for example in examples for weight in example.weights], device=device)
    gap = torch.logsumexp(logits, 1) - torch.logsumexp(logits + right, 1)
    return (weights * gap).sum()


def answer_logits(causal: Any, examples: Sequence[PackedPrompts], ids: Sequence[int], device: str = "cpu") -> Tensor:
    """The logits of `ids` after each prompt, in order, float32 [prompts, ids]."""
    tokens, positions, mask, last = packed_rows(examples)
    plain = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
    head = plain.get_output_embeddings()
    states = plain.get_decoder()(
        input_ids=tokens.to(device),
        attention_mask=_layer_masks(mask, positions, plain.config, head.weight.dtype, device),
        position_ids=positions.to(device),
        use_cache=False,
    ).last_hidden_state.flatten(0, 1)[last.to(device)]
    rows = head.weight[torch.tensor(list(ids), device=device)]
    logits: Tensor = states.float() @ rows.float().T
    return logits


def packed_rows(examples: Sequence[PackedPrompts]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens and positions int64 [rows, length], what each token may see, bool [rows, 1, length, length], and the place
    of the last token of each prompt in the flattened tokens, int64 [prompts]."""
    length = max(example.tokens for example in examples)
    tokens, positions = torch.zeros(len(examples), length, dtype=torch.int64), torch.zeros(len(examples), length).long()
    mask, last = torch.zeros(len(examples), 1, length, length, dtype=torch.bool), []
    mask[:, 0] = torch.eye(length, dtype=torch.bool)  # padding sees itself: a row of nothing would be NaN
    for row, example in enumerate(examples):
        begin = len(example.shared)
        tokens[row, :begin] = torch.tensor(example.shared, dtype=torch.int64)
        positions[row, :begin] = torch.arange(begin)
        mask[row, 0, :begin, :begin] = torch.ones(begin, begin, dtype=torch.bool).tril()
        at = begin
        for ending in example.endings:
            end = at + len(ending)
            tokens[row, at:end] = torch.tensor(ending)
            positions[row, at:end] = torch.arange(begin, begin + len(ending))
            mask[row, 0, at:end, :begin] = True
            mask[row, 0, at:end, at:end] = torch.ones(len(ending), len(ending), dtype=torch.bool).tril()
            last.append(row * length + end - 1)
            at = end
    return tokens, positions, mask, torch.tensor(last)


def _layer_masks(
    mask: Tensor, positions: Tensor, config: Any, dtype: torch.dtype, device: str
) -> Tensor | dict[str, Tensor]:
    """The mask as attention adds it: 0 where it is true, else the lowest number; by type of layer where some see only a
    window."""

    def additive(seen: Tensor) -> Tensor:
        return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min).to(device)

    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return additive(mask)
    near = positions[:, None, :, None] - positions[:, None, None, :] < int(config.sliding_window)
    return {"full_attention": additive(mask), "sliding_attention": additive(mask & near)}
