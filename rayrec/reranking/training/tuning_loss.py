"""What tuning minimises: the negative log likelihood of what users took, and of any item that they asked for.

    -log P(target)  +  instruction_loss_weight x -log P(the items that satisfy the request)

The second is a part of the first, -log P(target) = -log P(satisfying) - log P(target | satisfying): instruction_loss_weight weighs it
more. Probabilities are over all items. Of the new ones a step looks at a few, drawn evenly, each of which stands for as
many as were not drawn: its share of the sum and the weight of its targets are that many times larger (the estimate of
the sum is unbiased; its logarithm is not quite).

Where the task is turned round, what is to be said adds -log P(word) each, over all words: a language model's own loss,
which reaches the words' own vectors only where they are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rayrec.reranking.training.prompt_augmentation import RequestAugmentation
from rayrec.reranking.training.tuning_data import Batch, Int

_LOGITS = 1 << 24  # logits held at a time, numbers
_FEWEST, _SHARE = 1000, 0.25  # new items in a step: so many, or this share of the tuned ones


@dataclass(frozen=True)
class SampledItems:
    """The items that probabilities are made of, and how many items each stands for."""

    item: Int  # [shown] ascending
    importance_weight: npt.NDArray[np.float32]  # [shown]
    place: Int  # [items] where each is in `item`; -1: not shown

    @classmethod
    def all_items(cls, items: int) -> SampledItems:
        return cls(np.arange(items), np.ones(items, np.float32), np.arange(items))

    @classmethod
    def sample(cls, tuned: int, items: int, rng: np.random.Generator) -> SampledItems:
        """All of the first `tuned` items, and some of the others."""
        new = items - tuned
        many = min(new, max(_FEWEST, round(_SHARE * tuned)))
        if many == new:
            return cls.all_items(items)
        item = np.append(np.arange(tuned), tuned + np.sort(rng.choice(new, many, replace=False)))
        place = np.full(items, -1)
        place[item] = np.arange(len(item))
        return cls(item, np.where(item < tuned, 1, new / many).astype(np.float32), place)


@dataclass(frozen=True)
class ItemLoss:
    """`having` bool [facets, items]: what requests ask for."""

    item_has_facet: Tensor

    @classmethod
    def of(cls, asking: RequestAugmentation | None, items: int, device: str) -> ItemLoss:
        facets = None if asking is None else asking.teacher.facets
        having = torch.zeros(0 if facets is None else len(facets), items, dtype=torch.bool)
        if facets is not None:
            having[torch.from_numpy(facets.of_item.values), torch.from_numpy(facets.of_item.rows)] = True
        return cls(having.to(device))

    def loss_chunks(
        self,
        states: Tensor,
        vectors: Tensor,
        batch: Batch,
        sampled: SampledItems | None = None,
        instruction_loss_weight: float = 0.0,
    ) -> Iterator[Tensor]:
        """Parts of the loss, weighted and summed over the batch's targets, nats; each can be dropped before the next.

        states float32 [queries, width], vectors [items, width].
        """
        device = states.device
        sampled = sampled or SampledItems.all_items(len(vectors))
        shown = torch.from_numpy(sampled.item).to(device)
        among = vectors if len(shown) == len(vectors) else vectors[shown]
        lift = torch.from_numpy(np.log(sampled.importance_weight)).to(device)
        seen = np.flatnonzero(sampled.place[batch.target] >= 0)
        query, target = batch.query[seen], sampled.place[batch.target[seen]]
        weights = batch.weight[seen] * sampled.importance_weight[target]
        size = max(1, _LOGITS // max(len(shown), 1))
        for start in range(0, len(states), size):
            low, high = np.searchsorted(query, [start, start + size])
            if low == high:
                continue
            logits = states[start : start + size] @ among.float().T
            asker, answer, weight = (
                torch.from_numpy(part).to(device)
                for part in (query[low:high] - start, target[low:high], weights[low:high])
            )
            right = logits[asker, answer]
            logits = logits + lift
            everything = torch.logsumexp(logits, 1)
            loss = (weight * (everything[asker] - right)).sum()
            each = np.bincount(query[low:high] - start, weights[low:high], len(logits))
            heard = np.flatnonzero((batch.request_facets[start : start + size, 0] >= 0) & (each > 0))
            if instruction_loss_weight and len(heard):
                wanted = self.satisfying(torch.from_numpy(batch.request_facets[start + heard]).to(device), shown)
                rows = torch.from_numpy(heard).to(device)
                good = torch.logsumexp(logits[rows].masked_fill(~wanted, -math.inf), 1)
                share = torch.from_numpy(each[heard].astype(np.float32)).to(device)
                loss = loss + instruction_loss_weight * (share * (everything[rows] - good)).sum()
            yield loss

    def satisfying(self, asked: Tensor, items: Tensor) -> Tensor:
        """Which of these items [m], ascending, satisfy each request int64 [n, 3]: bool [n, m].

        A request is two facets that are wanted and one that is not; -1: nothing.
        """
        facet, place = torch.unique(asked, return_inverse=True)
        every = len(items) == self.item_has_facet.shape[1]
        having = (
            self.item_has_facet[facet.clamp_min(0)]
            if every
            else self.item_has_facet[facet.clamp_min(0).unsqueeze(1), items]
        )
        real = (facet >= 0).unsqueeze(1)
        wanted, unwanted = having | ~real, having & real
        found: Tensor = wanted[place[:, 0]] & wanted[place[:, 1]] & ~unwanted[place[:, 2]]
        return found


def text_loss_chunks(states: Tensor, table: Tensor, batch: Batch) -> Iterator[Tensor]:
    """Parts of the loss of what is to be said, weighted and summed over the batch's words, nats.

    states float32 [words said, width]; table [vocabulary, width]: what each word is said by.
    """
    size = max(1, _LOGITS // len(table))
    said, weight = (torch.from_numpy(part).to(states.device) for part in (batch.text_target, batch.text_weight))
    for start in range(0, len(states), size):
        rows = slice(start, start + size)
        logits = states[rows] @ table.float().T
        yield (weight[rows] * nn.functional.cross_entropy(logits, said[rows], reduction="none")).sum()
