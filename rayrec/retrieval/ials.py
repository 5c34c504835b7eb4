"""iALS (Hu, Koren & Volinsky 2008), fitted by `implicit`; users are folded in from their histories.

Confidence c = 1 + alpha x. Only the item factors V are stored: a user's vector is the exact solution of
(lambda I + V'V + sum_k (c_k - 1) v_k v_k') p = sum_k c_k v_k, so scores do not depend on the users in the fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from implicit.cpu.als import AlternatingLeastSquares
from pydantic import Field
from scipy.linalg import solve_triangular
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.numerics.ridge_blocks import WhitenedFactors, factor_gram, padded_batches, single_thread, solve_users
from rayrec.numerics.user_scores import FACTOR_BLOCK, FactorScores, UserScores
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.retriever import RETRIEVERS, Retriever, remap_rows
from rayrec.retrieval.user_histories import UserHistories


class IalsSettings(RetrieverSettings):
    factors: int = Field(64, ge=1, le=1024)
    """Dimension of the item factors, 1 to 1,024."""
    regularization: float = Field(10.0, gt=0)
    """Ridge, above 0."""
    alpha: float = Field(10.0, gt=0)
    """Confidence of an event relative to no event, above 0."""
    iterations: int = Field(8, ge=1)
    """Iterations of the fit."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the initial factors, 0 or more and below 2³²."""


@RETRIEVERS.register
class IalsRetriever(Retriever):
    """A factor model of implicit feedback; users are folded in from their histories."""

    name = "ials"
    settings_class = IalsSettings

    def __init__(
        self, factors: npt.NDArray[np.float32], settings: IalsSettings, gram: npt.NDArray[np.float64] | None = None
    ) -> None:
        self.factors = factors  # V [items, d]; zero for items without events
        self.settings = settings
        # V'V of the fit, so that users' vectors do not change when items leave the catalogue.
        self.gram = factor_gram(factors) if gram is None else gram
        self._whitened = WhitenedFactors.of(factors, self.gram, settings.regularization, 1.0, torch.float32)
        self._on_device: torch.Tensor | None = None

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu":
            return self
        moved = copy(self)
        moved._on_device = self._whitened.items.to(device)
        return moved

    @classmethod
    def fit(cls, data: FitData, settings: IalsSettings) -> Self:
        confidence = data.matrix.copy()
        confidence.data = 1 + np.float32(settings.alpha) * confidence.data
        # implicit parallelises over rows; BLAS threads would compete with it.
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                factors=settings.factors,
                regularization=settings.regularization,
                alpha=1.0,
                iterations=settings.iterations,
                random_state=settings.seed,
            )
            model.fit(confidence, show_progress=False)
        factors = np.array(model.item_factors, np.float32)
        factors[np.bincount(data.matrix.indices, minlength=len(factors)) == 0] = 0
        return cls(factors, settings)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"factors": self.factors, "gram": self.gram}

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: IalsSettings) -> Self:
        return cls(arrays["factors"], settings, arrays["gram"])

    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        return type(self)(remap_rows(self.factors, codes, items), self.settings, self.gram)

    @property
    def bytes_per_user(self) -> int:
        return 4 * min(len(self.factors), FACTOR_BLOCK)

    def user_scores(self, user_histories: UserHistories) -> UserScores:
        vectors = self.fold_in(user_histories.matrix())
        return self.score_vectors(vectors, np.arange(len(vectors) + 1))

    def score_vectors(self, vectors: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64]) -> UserScores:
        """Scores by vectors [vectors, d] in whitened coordinates; `offsets` [users + 1]: those of each user."""
        return FactorScores(vectors, offsets, self._whitened.items, on_device=self._on_device)

    def user_factors(self, matrix: sp.csr_matrix) -> npt.NDArray[np.float64]:
        """p [users, d] of the rows of `matrix` [users, items]: the vectors that the factors' own coordinates have."""
        root = self._whitened.root.double().numpy()
        plain: npt.NDArray[np.float64] = solve_triangular(root, self.fold_in(matrix).T, trans=1, lower=True).T
        return plain

    def fold_in(self, matrix: sp.csr_matrix) -> npt.NDArray[np.float32]:
        """Whitened vectors [users, d] of the rows of `matrix` [users, items]; zero for empty rows."""
        users = np.zeros((matrix.shape[0], self.factors.shape[1]), np.float32)
        offsets = matrix.indptr.astype(np.int64)
        for batch in padded_batches(offsets, users.shape[1]):
            with single_thread(), torch.inference_mode():
                mask = torch.from_numpy(batch.mask)
                weight = torch.from_numpy(matrix.data[batch.take]) * self.settings.alpha * mask
                w = self._whitened.items[torch.from_numpy(matrix.indices[batch.take]).long()] * mask.unsqueeze(2)
                users[batch.rows] = solve_users(w, weight, (1 + weight) * mask).numpy()
        return users
