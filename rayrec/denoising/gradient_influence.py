"""Denoising by per-example gradients of a next-item model of all users' events (rayrec.numerics.next_item_model).

The example of an event is the prediction of its item from the user's earlier events, with gradient g. The scores are
closed forms, exact for the model's loss over its sampled negatives, over the checkpoints c of one training:

- el2n: |p - e_y| at the last checkpoint, p the model's item probabilities (Paul et al. 2021).
- self_influence: mean_c |g_c|^2, the effect of a gradient step on the event's own loss (TracIn, Pruthi et al. 2020).
  It is high for events that no other event explains.
- grad_variance: standard deviation of d loss / d u between checkpoints, mean over its entries (variance of gradients,
  Agarwal et al. 2022; of the user's vector u instead of pixels).
- tracin: mean_c of g_c'g_c^v, mean over the user's other trusted events v. Below 0, learning from the event makes the
  trusted ones less likely: its negative influence. This does not find noise: similar items compete in the softmax, so a
  user's own events have more negative influence on each other than random ones.

With the first three, events above the user's median may be removed, the highest scores first; with tracin those of
negative influence. Self-consistency is the negated score; for tracin it is the score. Training uses Adam, but the plain
gradients are measured, as is common for TracIn. Only positive events whose item the model knows are assessed, each as a
target; their effect as context of later events is not measured.

EK-FAC and conjugate gradients need a Hessian of all parameters, too expensive for a daily run; see
`benchmarks.attribution`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayrec.data.required_fit import RequiredFit
from rayrec.denoising.denoiser import DENOISERS, REASONS, Arrays, Denoiser, DenoisingDecision, Histories, required_array
from rayrec.denoising.removal import TrustedInteractions, most_suspicious, trusted_events
from rayrec.denoising.within_user import median_within_user
from rayrec.numerics.next_item_model import NextItemModel, PerExampleGradients
from rayrec.numerics.ridge_blocks import padded_batches, single_thread

_PARTS = ("source", "target", "negatives", "weight", "recency")
_REQUIRED_FIT = RequiredFit("next_item", {})


class GradientSettings(TrustedInteractions):
    score: Literal["el2n", "self_influence", "grad_variance", "tracin"] = "el2n"
    """The measure: `el2n`, `self_influence`, `grad_variance` or `tracin`; only the last uses trusted events."""


@DENOISERS.register
class GradientDenoiser(Denoiser):
    """Removes events with outlying gradients in a next-item model of all users' events.

    Needs a `next_item` fit of the item model.
    """

    name = "gradient"
    settings_class = GradientSettings

    def __init__(self, model: NextItemModel, settings: GradientSettings) -> None:
        self.model, self.settings = model, settings

    @classmethod
    def required_fits(cls, settings: GradientSettings) -> tuple[RequiredFit, ...]:
        return (_REQUIRED_FIT,)

    @classmethod
    def load(cls, arrays: Arrays, settings: GradientSettings) -> Self:
        return cls(
            NextItemModel(*(required_array(arrays, f"{_REQUIRED_FIT.name}.{part}", cls.name) for part in _PARTS)),
            settings,
        )

    def decide(self, histories: Histories) -> DenoisingDecision:
        given = self.settings
        scored = (histories.weight.values > 0) & self.model.known[histories.item.values]
        decision = DenoisingDecision.all_retained(len(scored))
        item = histories.item.filter(scored)
        if not len(item.values):
            return decision
        trusted = trusted_events(histories, scored, given)
        score = self.measure(histories, scored, trusted)
        by_influence = given.score == "tracin"
        suspicion = -score if by_influence else score - median_within_user(item, score.astype(np.float64))
        out = most_suspicious(item, suspicion, np.ones(len(score), np.bool_), given)
        decision.influence[scored] = score if by_influence else -score
        if by_influence:
            decision.negative_influence[scored] = -score
        decision.keep_weight[scored] = np.where(out, given.removed_weight, 1)
        decision.reason[scored] = np.where(
            out, REASONS.index("negative_influence" if by_influence else "low_likelihood"), 0
        )
        return decision

    def measure(
        self, histories: Histories, scored: npt.NDArray[np.bool_], trusted: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """The score of each assessed event, [scored]; `scored` [events]: known items only; `trusted` [scored]."""
        item = histories.item.filter(scored)
        score = np.zeros(len(item.values), np.float32)
        # Memory: about 8 arrays of a batch's events x negatives.
        for batch in padded_batches(item.offsets, 3 * len(self.model.negatives)):
            codes = item.values[batch.take]
            with single_thread(), torch.inference_mode():
                trust = torch.from_numpy(trusted[batch.take] & batch.mask).float()
                at = partial(self.model.gradients, codes, batch.mask)
                found = SCORES[self.settings.score](at, self.model.checkpoints, trust).numpy()
            score[batch.take[batch.mask]] = found[batch.mask]
        return score


At = Callable[[int], PerExampleGradients]  # the gradients of a batch, by checkpoint


def _el2n(at: At, checkpoints: int, trust: Tensor) -> Tensor:
    return at(checkpoints - 1).el2n()


def _self_influence(at: At, checkpoints: int, trust: Tensor) -> Tensor:
    return torch.stack([at(c).gram().diagonal(dim1=1, dim2=2) for c in range(checkpoints)]).mean(0)


def _grad_variance(at: At, checkpoints: int, trust: Tensor) -> Tensor:
    return torch.stack([at(c).backward for c in range(checkpoints)]).std(0, correction=0).mean(2)


def _tracin(at: At, checkpoints: int, trust: Tensor) -> Tensor:
    gram = torch.stack([at(c).gram() for c in range(checkpoints)]).mean(0)
    gram.diagonal(dim1=1, dim2=2).zero_()
    others = trust.sum(1, keepdim=True) - trust
    return (gram * trust.unsqueeze(1)).sum(2) / others.clamp_min(1)


SCORES: Mapping[str, Callable[[At, int, Tensor], Tensor]] = {
    "self_influence": _self_influence,
    "tracin": _tracin,
    "el2n": _el2n,
    "grad_variance": _grad_variance,
}
