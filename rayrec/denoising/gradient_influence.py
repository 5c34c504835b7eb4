"""Denoising by the gradients of a next-item model of everybody's events (rayrec.numerics.next_item_model; REFERENCES section 2).

The example of an event is the event as what comes next after the user's events before it, with gradient g. Scores, in
closed form and exact for the model's loss over its sample of negatives, over the checkpoints c of one training:

- el2n: |p - e_y| at the last checkpoint (Paul et al. 2021), p the probabilities that the model gives the items.
- self_influence: mean_c |g_c|^2, what a step of gradient descent on the event does to the event's own loss (TracIn,
  Pruthi et al. 2020): what no other event teaches has to be learned by heart.
- grad_variance: how much d loss / d u differs between checkpoints, a standard deviation, mean over its entries
  (variance of gradients, Agarwal et al. 2022; of the user's vector u instead of pixels).
- tracin: mean_c of g_c'g_c^v, mean over the user's trusted events v: below 0, learning from the event makes the trusted
  ones less likely, and that is its harm. An event is no target of its own. It does not find noise: the items of one
  taste are each other's rivals in the softmax, so that a user's own events do each other more harm than a stray one.

By the first three, of a user's events the ones with the highest scores may go, if above the user's median; by tracin
the ones with harm. Self-consistency is the score's negative, for tracin the score. The training's own steps are Adam's,
not plain descent's: what is measured is the gradients, as TracIn is commonly used. Only positive events whose item the
model knows are judged, each as a target; what it does as context of later ones is not.

EK-FAC and conjugate gradients need a Hessian of all parameters, a matrix of items by items or a pass over all events
for every step and target: nothing for a night. `benchmarks.attribution` has them, on a small model.
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
from rayrec.denoising.event_selection import most_suspicious
from rayrec.denoising.factor_denoiser import median_within
from rayrec.denoising.removal_budget import TrustedInteractions
from rayrec.denoising.trusted_events import trusted_events
from rayrec.numerics.next_item_model import NextItemModel, PerExampleGradients
from rayrec.numerics.ridge_blocks import padded_batches, single_thread

_PARTS = ("source", "target", "negatives", "weight", "recency")
_REQUIRED_FIT = RequiredFit("next_item", {})


class GradientSettings(TrustedInteractions):
    score: Literal["el2n", "self_influence", "grad_variance", "tracin"] = "el2n"
    """What is measured: `el2n`, `self_influence`, `grad_variance`, or `tracin`, which alone asks for trusted events."""


@DENOISERS.register
class GradientDenoiser(Denoiser):
    """What a next-item model of everybody's events has to learn by heart goes, by its gradients.

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
        harmful = given.score == "tracin"
        suspicion = -score if harmful else score - median_within(item, score.astype(np.float64))
        out = most_suspicious(item, suspicion, np.ones(len(score), np.bool_), given)
        decision.influence[scored] = score if harmful else -score
        if harmful:
            decision.negative_influence[scored] = -score
        decision.keep[scored] = np.where(out, given.removed_weight, 1)
        decision.reason[scored] = np.where(out, REASONS.index("negative_influence" if harmful else "low_likelihood"), 0)
        return decision

    def measure(
        self, histories: Histories, scored: npt.NDArray[np.bool_], trusted: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """The settings' score of each judged event, [judged]; `judged` [total] of known items, `trusted` [judged]."""
        item = histories.item.filter(scored)
        score = np.zeros(len(item.values), np.float32)
        # What is held at once is about 8 arrays of a batch's events by negatives.
        for batch in padded_batches(item.offsets, 3 * len(self.model.negatives)):
            codes = item.values[batch.take]
            with single_thread(), torch.inference_mode():
                trust = torch.from_numpy(trusted[batch.take] & batch.mask).float()
                at = partial(self.model.gradients, codes, batch.mask)
                found = SCORES[self.settings.score](at, self.model.checkpoints, trust).numpy()
            score[batch.take[batch.mask]] = found[batch.mask]
        return score


At = Callable[[int], PerExampleGradients]  # the gradients of a batch at a checkpoint


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
