"""The tuning loss: next-item negative log likelihood, plus a weighted instruction-satisfaction loss.

    -log P(target)  +  instruction_loss_weight x -log P(the items that satisfy the request)

The second term is a part of the first, -log P(target) = -log P(satisfying) - log P(target | satisfying), so
`instruction_loss_weight` adds weight to it. Probabilities are over all items. Items without an own vector are sampled
uniformly in each step (sampled softmax): each sampled item's importance weight, the number of items it represents,
applies in the sum of the softmax and to its targets. The estimate of the sum is unbiased, that of its logarithm nearly
so. Of more than 20,000 items with an own vector, the step's targets and a uniform sample of the others, 20,000 in all,
take part; the targets have weight 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayrec.reranking.training.request_augmentation import RequestAugmentation
from rayrec.reranking.training.tuning_examples import Batch, Int

_LOGITS = 1 << 24  # logits held at a time
_MIN_SAMPLE, _SAMPLE_SHARE = 1000, 0.25  # new items per step: a number, or a share of the tuned ones
_MAX_TUNED = 20_000  # items with an own vector per step


@dataclass(frozen=True)
class SampledItems:
    """The items of a sampled softmax and their importance weights."""

    item: Int  # [sampled] ascending
    importance_weight: npt.NDArray[np.float32]  # [sampled]
    place: Int  # [items] position in `item`; -1: not sampled

    @classmethod
    def all_items(cls, items: int) -> SampledItems:
        return cls(np.arange(items), np.ones(items, np.float32), np.arange(items))

    @classmethod
    def sample(cls, tuned: int, items: int, rng: np.random.Generator, targets: Int | None = None) -> SampledItems:
        """The first `tuned` items, or of too many `targets` and a sample; and a sample of the others."""
        new = items - tuned
        own, weight = _own_items(tuned, rng, np.empty(0, np.int64) if targets is None else targets)
        many = min(new, max(_MIN_SAMPLE, round(_SAMPLE_SHARE * len(own))))
        if many == new and len(own) == tuned:
            return cls.all_items(items)
        others = np.sort(rng.choice(new, many, replace=False)) if many < new else np.arange(new)
        item = np.append(own, tuned + others)
        place = np.full(items, -1)
        place[item] = np.arange(len(item))
        return cls(item, np.append(weight, np.full(many, new / max(many, 1))).astype(np.float32), place)


def _own_items(tuned: int, rng: np.random.Generator, targets: Int) -> tuple[Int, npt.NDArray[np.float64]]:
    """The items with an own vector that take part in a step, ascending, and their importance weights."""
    if tuned <= _MAX_TUNED:
        return np.arange(tuned), np.ones(tuned)
    certain = np.unique(targets[targets < tuned])
    rest = np.setdiff1d(np.arange(tuned), certain, assume_unique=True)
    many = max(0, _MAX_TUNED - len(certain))
    drawn = rng.choice(rest, min(many, len(rest)), replace=False)
    item = np.concatenate([certain, drawn])
    weight = np.concatenate([np.ones(len(certain)), np.full(len(drawn), len(rest) / max(len(drawn), 1))])
    order = np.argsort(item)
    return item[order], weight[order]


@dataclass(frozen=True)
class ItemLoss:
    """The loss of item queries."""

    item_has_facet: Tensor  # bool [facets, items]

    @classmethod
    def of(cls, augmentation: RequestAugmentation | None, items: int, device: str) -> ItemLoss:
        facets = None if augmentation is None else augmentation.simulator.facets
        item_has_facet = torch.zeros(0 if facets is None else len(facets), items, dtype=torch.bool)
        if facets is not None:
            item_has_facet[torch.from_numpy(facets.of_item.values), torch.from_numpy(facets.of_item.rows)] = True
        return cls(item_has_facet.to(device))

    def loss_chunks(
        self,
        states: Tensor,
        vectors: Tensor,
        batch: Batch,
        sampled: SampledItems | None = None,
        instruction_loss_weight: float = 0.0,
    ) -> Iterator[Tensor]:
        """Yield parts of the loss, weighted and summed over the batch's targets, nats; each can be freed before the
        next.

        states float32 [queries, width], vectors [items, width].
        """
        device = states.device
        sampled = sampled or SampledItems.all_items(len(vectors))
        items = torch.from_numpy(sampled.item).to(device)
        table = vectors if len(items) == len(vectors) else vectors[items]
        log_importance = torch.from_numpy(np.log(sampled.importance_weight)).to(device)
        usable = np.flatnonzero(sampled.place[batch.target] >= 0)
        query, target = batch.query[usable], sampled.place[batch.target[usable]]
        weights = batch.weight[usable] * sampled.importance_weight[target]
        size = max(1, _LOGITS // max(len(items), 1))
        for start in range(0, len(states), size):
            low, high = np.searchsorted(query, [start, start + size])
            if low == high:
                continue
            logits = states[start : start + size] @ table.float().T
            row, answer, weight = (
                torch.from_numpy(part).to(device)
                for part in (query[low:high] - start, target[low:high], weights[low:high])
            )
            target_logits = logits[row, answer]
            logits = logits + log_importance
            total = torch.logsumexp(logits, 1)
            loss = (weight * (total[row] - target_logits)).sum()
            per_query = np.bincount(query[low:high] - start, weights[low:high], len(logits))
            asking = np.flatnonzero((batch.request_facets[start : start + size, 0] >= 0) & (per_query > 0))
            if instruction_loss_weight and len(asking):
                facets = torch.from_numpy(batch.request_facets[start + asking]).to(device)
                rows = torch.from_numpy(asking).to(device)
                satisfied = logits[rows].masked_fill(~self.satisfying(facets, items), -math.inf)
                share = torch.from_numpy(per_query[asking].astype(np.float32)).to(device)
                gap = total[rows] - torch.logsumexp(satisfied, 1)
                loss = loss + instruction_loss_weight * (share * gap).sum()
            yield loss

    def satisfying(self, requests: Tensor, items: Tensor) -> Tensor:
        """Which of these items [m], ascending, satisfy each request int64 [n, 3]: bool [n, m].

        A request is two included facets and an excluded one; -1: none.
        """
        facet, place = torch.unique(requests, return_inverse=True)
        row = facet.clamp_min(0)
        all_items = len(items) == self.item_has_facet.shape[1]
        has = self.item_has_facet[row] if all_items else self.item_has_facet[row.unsqueeze(1), items]
        real = (facet >= 0).unsqueeze(1)
        included, excluded = has | ~real, has & real
        found: Tensor = included[place[:, 0]] & included[place[:, 1]] & ~excluded[place[:, 2]]
        return found
