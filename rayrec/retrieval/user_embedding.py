"""Multi-interest user embeddings (after kNN-Embed, arXiv 2205.06205): a history is clustered into interests.

The items of a user's history are clustered by the cosine of their iALS factors (spherical k-means), each cluster is
folded in like a user, p_c, and an item scores max_c v'p_c, so that interests are not averaged. The ridge shrinks the
vector of an interest with few items, which gives it less weight. One interest gives the scores of iALS; both share a
fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from rayrec.numerics.ridge_blocks import padded_batches, single_thread
from rayrec.numerics.user_scores import UserScores
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.ials import IalsRetriever, IalsSettings
from rayrec.retrieval.retriever import RETRIEVERS, Retriever
from rayrec.retrieval.user_histories import UserHistories

_ROUNDS = 10  # of k-means


class UserEmbeddingSettings(IalsSettings):
    interests: int = Field(4, ge=1, le=64)
    """Largest number of clusters of a history, 1 to 64; 1 is iALS. Used in scoring only."""

    scoring_only = IalsSettings.scoring_only | {"interests"}


@RETRIEVERS.register
class UserEmbeddingRetriever(Retriever):
    """Several vectors per user in the space of iALS factors, one per interest."""

    name = "user_embedding"
    settings_class = UserEmbeddingSettings
    shares_fit_with = IalsRetriever.name

    def __init__(self, model: IalsRetriever, interests: int) -> None:
        self.model = model
        self.interests = interests
        self._directions = normalize(torch.from_numpy(np.array(model.factors)))  # zero where not known
        self._known = np.any(model.factors != 0, axis=1)

    @classmethod
    def fit(cls, data: FitData, settings: UserEmbeddingSettings) -> Self:
        return cls(IalsRetriever.fit(data, settings), settings.interests)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return self.model.arrays()

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: UserEmbeddingSettings) -> Self:
        return cls(IalsRetriever.load(arrays, settings), settings.interests)

    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        return type(self)(self.model.remap(codes, items), self.interests)

    @property
    def bytes_per_user(self) -> int:
        return self.interests * self.model.bytes_per_user

    def user_scores(self, user_histories: UserHistories) -> UserScores:
        return self.model.score_vectors(*self.vectors(user_histories))

    def vectors(self, user_histories: UserHistories) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """All users' interests [interests, d], whitened, and the offsets of the users' interests, [users + 1].

        A user without known items has none.
        """
        matrix = user_histories.matrix()
        known = self._known[matrix.indices]
        user = np.repeat(np.arange(len(user_histories)), np.diff(matrix.indptr))[known]
        item, weight = matrix.indices[known], matrix.data[known]
        group = user * self.interests + self._clusters(item, np.bincount(user, minlength=len(user_histories)))
        rows, row = np.unique(group, return_inverse=True)
        grouped = sp.csr_matrix((weight, (row, item)), shape=(len(rows), user_histories.items))
        offsets = np.searchsorted(rows, np.arange(len(user_histories) + 1) * self.interests)
        return self.model.fold_in(grouped), offsets

    def _clusters(self, item: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The interest of each event, [events], from 0 to interests - 1; `lengths` [users]."""
        found = np.zeros(len(item), np.int64)
        if self.interests > 1:
            for batch in padded_batches(np.concatenate([[0], np.cumsum(lengths)]), self._directions.shape[1]):
                with single_thread(), torch.inference_mode():
                    mask = torch.from_numpy(batch.mask)
                    lines = self._directions[torch.from_numpy(item[batch.take]).long()] * mask.unsqueeze(2)
                    found[batch.take[batch.mask]] = spherical_kmeans(lines, mask, self.interests)[mask].numpy()
        return found


def spherical_kmeans(lines: Tensor, mask: Tensor, clusters: int) -> Tensor:
    """Cluster labels int64 [b, L] of the unit vectors of each row of `lines` [b, L, d], zero outside `mask` [b, L].

    Starts with the vector nearest to the row's mean, then adds the one farthest from those chosen; ties go to the
    first. Rows with fewer distinct vectors have fewer clusters.
    """
    rows = torch.arange(len(lines))
    chosen = [torch.bmm(lines, lines.sum(1).unsqueeze(2)).squeeze(2).masked_fill(~mask, -torch.inf).argmax(1)]
    nearest = torch.full(mask.shape, -torch.inf)
    for _ in range(clusters - 1):
        nearest = nearest.maximum(torch.bmm(lines, lines[rows, chosen[-1]].unsqueeze(2)).squeeze(2))
        chosen.append(nearest.masked_fill(~mask, torch.inf).argmin(1))
    centres = lines[rows.unsqueeze(1), torch.stack(chosen, 1)]
    for _ in range(_ROUNDS):
        label = torch.bmm(lines, centres.transpose(1, 2)).argmax(2)
        sums = torch.bmm(one_hot(label, clusters).to(lines.dtype).transpose(1, 2), lines)
        moved = normalize(sums, dim=2)
        centres = torch.where(sums.any(2, keepdim=True), moved, centres)
    return torch.bmm(lines, centres.transpose(1, 2)).argmax(2)
