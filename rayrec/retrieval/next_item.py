"""A log-bilinear next-item model (rayrec.numerics.next_item_model) fitted with torch.

Each event is predicted from the events before it, by Adam on a softmax over sampled items. Each step draws new
negatives, each item independently, with a probability that grows with the square root of its events; a catalogue of at
most `negatives` items is used as a whole. The model is stored at several checkpoints of the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import embedding_bag

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.numerics.batch_invariant import from_numpy
from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.next_item_model import NextItemModel
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.ridge_blocks import single_thread
from rayrec.numerics.user_scores import FACTOR_BLOCK, FactorScores, UserScores
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.retriever import RETRIEVERS, Retriever, remap_rows
from rayrec.retrieval.user_histories import UserHistories

_STEPS = 256

Floats = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]


class NextItemSettings(RetrieverSettings):
    factors: int = Field(32, ge=1)
    """Dimension of the factors."""
    epochs: int = 8
    """Passes over the events, at least `checkpoints`."""
    checkpoints: int = Field(4, ge=1)
    """Number of checkpoints stored, at equal distances."""
    negatives: int = Field(512, ge=1)
    """Expected number of sampled items in the softmax."""
    window: int = Field(20, ge=1)
    """Number of preceding events used for a prediction."""
    decay: float = Field(0.8, gt=0, le=1)
    """Weight of an event relative to the one after it, above 0 and at most 1."""
    batch_events: int = Field(512, ge=1)
    """Smallest number of events per step; an epoch has at most 256 steps."""
    learning_rate: float = Field(0.01, gt=0)
    """Learning rate of Adam, above 0."""
    l2: float = Field(1e-5, ge=0)
    """L2 penalty of the weights."""
    max_events: int = Field(1_000_000, ge=1)
    """Most training events; beyond it, whole users are dropped in the order of the fit."""
    seed: int = 0
    """Random seed."""

    @model_validator(mode="after")
    def _an_epoch_a_checkpoint(self) -> Self:
        if self.epochs < self.checkpoints:
            raise ValueError("epochs must not be below checkpoints")
        return self

    @property
    def recency(self) -> Floats:
        """[window] of the last event, the last but one, ..."""
        return (self.decay ** np.arange(self.window)).astype(np.float32)


@dataclass(frozen=True)
class NextItemExamples:
    """One example per event: `target` [n] item codes; `before` [n, window] codes of the events before it, newest first,
    with weights `share` [n, window] float32 that sum to 1, or are 0 if there are none."""

    target: Int
    before: Int
    share: Floats

    @classmethod
    def of(cls, item: Ragged, recency: Floats) -> NextItemExamples:
        """Examples of every event; `item` int32 codes, oldest first."""
        place = np.arange(len(item.values))
        before = place[:, None] - np.arange(1, len(recency) + 1)
        mask = before >= item.offsets[:-1][item.rows][:, None]
        share = np.where(mask, recency, 0).astype(np.float32)
        share /= np.maximum(share.sum(1, keepdims=True), np.float32(1e-30))
        return cls(item.values.astype(np.int64), item.values[np.where(mask, before, 0)].astype(np.int64), share)

    def __len__(self) -> int:
        return len(self.target)

    def take(self, places: Int) -> NextItemExamples:
        return NextItemExamples(self.target[places], self.before[places], self.share[places])


@RETRIEVERS.register
class NextItemRetriever(Retriever):
    """The items that follow the newest events, by a log-bilinear model of sequences."""

    name = "next_item"
    settings_class = NextItemSettings

    def __init__(self, model: NextItemModel, settings: NextItemSettings) -> None:
        self.model, self.settings = model, settings

    @classmethod
    def fit(cls, data: FitData, settings: NextItemSettings) -> Self:
        lengths = np.bincount(data.user, minlength=data.matrix.shape[0])
        users = max(int(np.searchsorted(np.cumsum(lengths), settings.max_events, side="right")), 1)
        item = Ragged.from_lengths(data.item[: lengths[:users].sum()], lengths[:users])
        return cls(train(NextItemExamples.of(item, settings.recency), data.matrix.shape[1], settings), settings)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        model = self.model
        return {
            "source": model.source,
            "target": model.target,
            "negatives": model.negatives,
            "weight": model.weight,
            "recency": model.recency,
        }

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: NextItemSettings) -> Self:
        parts = (arrays[name] for name in ("source", "target", "negatives", "weight", "recency"))
        return cls(NextItemModel(*parts), settings)

    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        def moved(old: Floats) -> Floats:
            return np.stack([remap_rows(checkpoint, codes, items) for checkpoint in old])

        model = self.model
        place = codes[model.negatives]
        stay = place >= 0
        negatives, weight = place[stay].astype(np.int32), model.weight[stay]
        moved_model = NextItemModel(moved(model.source), moved(model.target), negatives, weight, model.recency)
        return type(self)(moved_model, self.settings)

    @property
    def bytes_per_user(self) -> int:
        return 4 * min(len(self.model.known), FACTOR_BLOCK)

    def user_scores(self, user_histories: UserHistories) -> UserScores:
        model = self.model
        item = user_histories.item.filter(model.known[user_histories.item.values])
        there = item.lengths > 0
        # One more event, of any item, whose example is the prediction after the last event.
        extended = item.joined(Ragged.from_lengths(np.zeros(len(item), np.int32), np.ones(len(item), np.int64)))
        examples = NextItemExamples.of(extended, model.recency).take((extended.offsets[1:] - 1)[there])
        with torch.inference_mode():
            vectors = _hidden(from_numpy(model.source[-1]), examples).numpy()
        offsets = np.concatenate([[0], np.cumsum(there)])
        return FactorScores(vectors, offsets, from_numpy(model.target[-1]), known=model.known)


def train(examples: NextItemExamples, items: int, settings: NextItemSettings) -> NextItemModel:
    """Train a model; the same examples and settings give identical bits."""
    with single_thread():
        return _Training(examples, items, settings).run()


class _Training:
    def __init__(self, examples: NextItemExamples, items: int, settings: NextItemSettings) -> None:
        self.examples, self.settings = examples, settings
        count = np.bincount(examples.target, minlength=items)
        self.known = count > 0
        self.chance = inclusion(np.sqrt(count), settings.negatives)
        self.random = np.random.default_rng(derive_seed("next_item", settings.seed))
        draw = self.random.normal(scale=0.1, size=(2, items, settings.factors)).astype(np.float32)
        self.source = torch.from_numpy(draw[0]).requires_grad_()
        # The last column is the items' bias.
        self.target = torch.from_numpy(np.pad(draw[1], ((0, 0), (0, 1)))).requires_grad_()

    def run(self) -> NextItemModel:
        given, checkpoints = self.settings, []
        optimizer = torch.optim.Adam([self.source, self.target], given.learning_rate, weight_decay=given.l2)
        ends = {-(-given.epochs * part // given.checkpoints) for part in range(1, given.checkpoints + 1)}
        for epoch in range(1, given.epochs + 1):
            for places in self._batches():
                optimizer.zero_grad()
                self._loss(self.examples.take(places)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if epoch in ends:
                checkpoints.append(
                    [(part.detach().numpy() * self.known[:, None]) for part in (self.source, self.target)]
                )
        source, target = (np.stack(parts).astype(np.float32) for parts in zip(*checkpoints, strict=True))
        negatives, weight = self._negatives()
        return NextItemModel(source, target, negatives.astype(np.int32), weight, given.recency)

    def _batches(self) -> Iterator[Int]:
        events = len(self.examples)
        size = max(self.settings.batch_events, -(-events // _STEPS))
        yield from np.split(self.random.permutation(events), np.arange(size, events, size))

    def _negatives(self) -> tuple[Int, Floats]:
        drawn = np.flatnonzero(self.random.random(len(self.chance)) < self.chance)
        return drawn, (1 / self.chance[drawn]).astype(np.float32)

    def _loss(self, examples: NextItemExamples) -> Tensor:
        negatives, weight = self._negatives()
        own = torch.from_numpy(examples.target)
        hidden = _hidden(self.source, examples)
        for_own = (hidden * self.target[own]).sum(1)
        others = hidden @ self.target[torch.from_numpy(negatives)].T + torch.log(torch.from_numpy(weight))
        others = others.masked_fill(torch.from_numpy(examples.target[:, None] == negatives), -torch.inf)
        return (torch.logaddexp(torch.logsumexp(others, 1), for_own) - for_own).mean()


def inclusion(weight: npt.NDArray[np.float64], number: int) -> npt.NDArray[np.float64]:
    """Inclusion probabilities of independent draws, proportional to weight but at most 1, that sum to `number`.

    All 1 if at most `number` items have a weight; 0 for items without a weight.
    """
    positive = weight > 0
    if positive.sum() <= number:
        return positive.astype(np.float64)
    sure = np.zeros(len(weight), np.bool_)
    while True:  # items whose probability would exceed 1 are certain; the others share the rest
        chance = np.where(sure, 1.0, weight * (number - sure.sum()) / weight[~sure].sum())
        more = (chance >= 1) & ~sure
        if not more.any():
            return chance
        sure |= more


def _hidden(source: Tensor, examples: NextItemExamples) -> Tensor:
    """h [n, d + 1]; each row is summed independently of the batch."""
    before, share = torch.from_numpy(examples.before), torch.from_numpy(examples.share)
    context = embedding_bag(before, source, mode="sum", per_sample_weights=share)
    return torch.nn.functional.pad(context, (0, 1), value=1.0)
