"""FISM (rayrec.numerics.fism_model) fitted with torch on one of several objectives.

Robust objectives learn less from unlikely events.

With s the scores of a user's items by the user's other items (positive) and of sampled items (negative), and
l = softplus(-s) for positives, softplus(s) for negatives:

    bce      l of both                     bpr   softplus(s_negative - s_positive)
    t_ce     bce without the share of positives with the largest l; the share rises to `drop` over the first half of
             the training (Wang et al. 2021)
    r_ce     bce weighted by sigma(s)^power for positives, (1 - sigma(s))^power for negatives (Wang et al. 2021)
    pld      bpr; after half of the epochs each positive is drawn among `draws` of the user's, P ~ exp(-loss / tau)
    rel_mf   (1 - p)^2 / theta + (1 - 1 / theta) p^2 for positives, p^2 for negatives, p = sigma(s), and exposure
             theta_i = (n_i / max n)^power, at least `floor` (Saito et al. 2020)
    nbpo     a liked item occurs as a negative with probability g_i, learned with a prior at `flip`:
             -log((1 - g) sigma(s)) for positives, -log(1 - (1 - g) sigma(s)) for negatives (Yu & Qin 2020)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import embedding_bag, softplus

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.numerics.batch_invariant import from_numpy
from rayrec.numerics.fism_model import FismModel
from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.ridge_blocks import single_thread
from rayrec.numerics.user_scores import FACTOR_BLOCK, FactorScores, UserScores
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.retriever import RETRIEVERS, Retriever, remap_rows
from rayrec.retrieval.user_histories import UserHistories

_STEPS = 256
OBJECTIVES = ("bce", "bpr", "t_ce", "r_ce", "pld", "rel_mf", "nbpo")


class FismSettings(RetrieverSettings):
    objective: Literal["bce", "bpr", "t_ce", "r_ce", "pld", "rel_mf", "nbpo"] = "bpr"
    """Objective: `bce`, `bpr`, `t_ce`, `r_ce`, `pld`, `rel_mf` or `nbpo`; all but the first two are robust."""
    factors: int = Field(32, ge=1)
    """Dimension of the factors."""
    epochs: int = Field(20, ge=1)
    """Passes over the events."""
    negatives: int = Field(4, ge=1)
    """Uniformly sampled negatives per positive; items of the user's history are skipped."""
    batch_events: int = Field(2048, ge=1)
    """Smallest number of events per step; an epoch has at most 256 steps."""
    learning_rate: float = Field(0.01, gt=0)
    """Learning rate of Adam, above 0."""
    l2: float = Field(1e-5, ge=0)
    """L2 penalty of the weights."""
    max_events: int = Field(1_000_000, ge=1)
    """Most training events; beyond it, whole users are dropped in the order of the fit."""
    seed: int = 0
    """Random seed."""
    drop: float = Field(0.1, ge=0, lt=1)
    """Of `t_ce`: final share of positives that are ignored, those of the highest loss; below 1."""
    power: float = Field(0.5, ge=0)
    """Of `r_ce`: how fast weights fall with the loss; of `rel_mf`: how steeply exposure rises with an item's events."""
    tau: float = Field(0.1, gt=0)
    """Of `pld`: temperature of the resampling among the user's events; above 0."""
    draws: int = Field(5, ge=1)
    """Of `pld`: candidate events per draw."""
    floor: float = Field(0.1, gt=0, le=1)
    """Of `rel_mf`: smallest exposure, above 0 and at most 1."""
    flip: float = Field(0.2, gt=0, lt=1)
    """Of `nbpo`: prior probability that a liked item occurs as a negative; above 0 and below 1."""


@RETRIEVERS.register
class FismRetriever(Retriever):
    """A factor model in which a user is represented by the items of the history; several objectives, some robust."""

    name = "fism"
    settings_class = FismSettings

    def __init__(self, model: FismModel, quantiles: npt.NDArray[np.float32], settings: FismSettings) -> None:
        self.model = model
        self.quantiles = quantiles  # [101] percentiles of the loss softplus(-s) over the fit's events
        self.settings = settings
        self._known = model.known

    @classmethod
    def fit(cls, data: FitData, settings: FismSettings) -> Self:
        users = int(np.searchsorted(data.matrix.indptr, settings.max_events, side="right")) - 1
        matrix = data.matrix[: max(users, 1)]
        with single_thread():
            model = _Training(matrix, settings).run()
        item = Ragged(matrix.indices, matrix.indptr.astype(np.int64))
        loss = np.logaddexp(0, -model.leave_one_out_scores(item))
        return cls(model, np.quantile(loss, np.linspace(0, 1, 101)).astype(np.float32), settings)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        model = self.model
        return {"source": model.source, "target": model.target, "bias": model.bias, "quantiles": self.quantiles}

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: FismSettings) -> Self:
        model = FismModel(arrays["source"], arrays["target"], arrays["bias"])
        return cls(model, arrays["quantiles"], settings)

    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        old = (self.model.source, self.model.target, self.model.bias)
        model = FismModel(*(remap_rows(values, codes, items) for values in old))
        return type(self)(model, self.quantiles, self.settings)

    @property
    def bytes_per_user(self) -> int:
        return 4 * min(len(self._known), FACTOR_BLOCK)

    def user_scores(self, user_histories: UserHistories) -> UserScores:
        item = user_histories.item.filter(self._known[user_histories.item.values])
        there = item.lengths > 0
        offsets = np.concatenate([[0], np.cumsum(there)])
        items = from_numpy(self.model.target)
        return FactorScores(self.model.users(item)[there], offsets, items, self.model.bias, self._known)


class _Training:
    """Adam over batches of whole users; the same bits for the same data and settings."""

    def __init__(self, matrix: sp.csr_matrix, settings: FismSettings) -> None:
        self.matrix, self.settings = matrix, settings
        self.count = np.bincount(matrix.indices, minlength=matrix.shape[1])
        self.items = np.flatnonzero(self.count)
        self.cells = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * matrix.shape[1] + matrix.indices
        self.cells.sort()
        self.random = np.random.default_rng(derive_seed("fism", settings.seed))
        shape = (matrix.shape[1], settings.factors)
        draw = [self.random.normal(scale=0.1, size=shape).astype(np.float32) for _ in range(2)]
        self.source, self.target = (torch.from_numpy(array).requires_grad_() for array in draw)
        self.bias = torch.zeros(matrix.shape[1], requires_grad=True)
        prior = float(np.log(settings.flip / (1 - settings.flip)))
        self.flip = torch.full((matrix.shape[1],), prior, requires_grad=True)
        self.prior = prior
        exposure = (self.count / self.count.max()) ** settings.power
        self.theta = torch.from_numpy(np.maximum(exposure, settings.floor).astype(np.float32))

    def run(self) -> FismModel:
        given = self.settings
        weights = [self.source, self.target, self.bias, self.flip]
        optimizer = torch.optim.Adam(weights, given.learning_rate, weight_decay=given.l2)
        for epoch in range(given.epochs):
            for users in self._batches():
                optimizer.zero_grad()
                self._loss(users, (epoch + 1) / given.epochs).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        known = (self.count > 0)[:, None]
        source, target = ((part.detach().numpy() * known).astype(np.float32) for part in (self.source, self.target))
        return FismModel(source, target, self.bias.detach().numpy() * known[:, 0])

    def _batches(self) -> Iterator[npt.NDArray[np.int64]]:
        users = self.random.permutation(np.flatnonzero(np.diff(self.matrix.indptr) > 1))  # one item has no others
        events = np.cumsum(np.diff(self.matrix.indptr)[users])
        edges = np.flatnonzero(np.diff(events // max(self.settings.batch_events, self.matrix.nnz // _STEPS))) + 1
        yield from (part for part in np.split(users, edges) if len(part))

    def _loss(self, users: npt.NDArray[np.int64], progress: float) -> Tensor:
        rows = self.matrix[users]
        size = np.diff(rows.indptr)
        row = np.repeat(np.arange(len(users)), size)
        positive = torch.from_numpy(rows.indices.astype(np.int64))
        sums = embedding_bag(positive, self.source, torch.from_numpy(rows.indptr[:-1].astype(np.int64)), mode="sum")
        others = torch.from_numpy(1 / np.sqrt(np.maximum(size - 1, 1))[row]).float()
        vector = (sums[torch.from_numpy(row)] - self.source[positive]) * others.unsqueeze(1)
        drawn = self.items[self.random.integers(len(self.items), size=(len(row), self.settings.negatives))]
        usable = torch.from_numpy(~self._has(users[row][:, None] * self.matrix.shape[1] + drawn)).float()
        negative = torch.from_numpy(drawn)
        for_positive = (vector * self.target[positive]).sum(1) + self.bias[positive]
        for_negative = torch.bmm(self.target[negative], vector.unsqueeze(2)).squeeze(2) + self.bias[negative]
        kind = self.settings.objective
        if kind in ("bpr", "pld"):
            pair = (softplus(for_negative - for_positive.unsqueeze(1)) * usable).sum(1) / usable.sum(1).clamp_min(1)
            if kind == "pld" and progress > 0.5:
                pair = pair[self._likely(pair.detach().numpy(), rows.indptr, row)]
            return pair.mean()
        gain, cost = self._pointwise(kind, for_positive, for_negative, positive, negative, progress)
        cost = (cost * usable).sum() / usable.sum().clamp_min(1)
        penalty = 0.01 * ((self.flip - self.prior) ** 2).mean() if kind == "nbpo" else 0.0
        return gain + cost + penalty

    def _pointwise(
        self, kind: str, up: Tensor, down: Tensor, positive: Tensor, negative: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        """The positives' mean loss, and the negatives' losses [n, negatives]."""
        given = self.settings
        if kind == "rel_mf":
            p, theta = torch.sigmoid(up), self.theta[positive]
            return ((1 - p) ** 2 / theta + (1 - 1 / theta) * p**2).mean(), torch.sigmoid(down) ** 2
        if kind == "nbpo":
            shown = 1 - torch.sigmoid(self.flip)
            gain = softplus(-up) - torch.log(shown[positive])
            return gain.mean(), -torch.log1p(-shown[negative] * torch.sigmoid(down) * (1 - 1e-6))
        gain, cost = softplus(-up), softplus(down)
        if kind == "t_ce":
            keep = len(gain) - int(given.drop * min(1.0, 2 * progress) * len(gain))
            gain = gain.topk(max(keep, 1), largest=False).values
        if kind == "r_ce":
            gain = gain * torch.sigmoid(up.detach()) ** given.power
            cost = cost * torch.sigmoid(-down.detach()) ** given.power
        return gain.mean(), cost

    def _likely(
        self, loss: npt.NDArray[np.float32], indptr: npt.NDArray[np.int32], row: npt.NDArray[np.int64]
    ) -> Tensor:
        """Resample: for each event one of the same user, among a few with P ~ exp(-loss / tau): [n] positions."""
        size = np.diff(indptr)[row]
        draw = self.random.random((len(row), self.settings.draws))
        offered = indptr[row][:, None] + (draw * size[:, None]).astype(np.int64)
        noise = self.random.gumbel(size=offered.shape)
        best = np.argmax(noise - loss[offered] / self.settings.tau, axis=1)
        return torch.from_numpy(offered[np.arange(len(row)), best].astype(np.int64))

    def _has(self, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        place = np.minimum(np.searchsorted(self.cells, cells), len(self.cells) - 1)
        found: npt.NDArray[np.bool_] = self.cells[place] == cells
        return found
