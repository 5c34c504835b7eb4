"""EASE (Steck 2019): the linear item-item model with a zero diagonal, in closed form.

P = (X'X + lambda I)^-1 and B = I - P diag(1 / P_jj), so that B_jj = 0; a user's scores are x B. Items with too few
users are excluded and score 0. This solve is cubic in the number of items; beyond 20,000 of them the sparse solver
regresses each item on its neighbours (rayrec.retrieval.sparse_ease).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from pydantic import Field, model_validator
from scipy.linalg import lapack

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.errors import ConfigError, DataError
from rayrec.numerics.batch_invariant import from_numpy
from rayrec.numerics.types import Float32s, Float64s, Int32s, Int64s
from rayrec.numerics.user_scores import DenseScores, SparseScores, UserScores
from rayrec.retrieval.fit_data import FitData, gram_matrix
from rayrec.retrieval.item_item import csr_arrays, csr_of, remap_cells
from rayrec.retrieval.retriever import MAX_DENSE_ITEMS, RETRIEVERS, Retriever
from rayrec.retrieval.sparse_ease import neighbourhood_weights
from rayrec.retrieval.user_histories import UserHistories

_RESIDUAL = 1e-3  # largest allowed |(X'X + lambda I) P - I| on the sampled columns


class EaseSettings(RetrieverSettings):
    regularization: float = Field(200.0, gt=0)
    """Ridge, above 0; larger values trust rare item pairs less."""
    min_users: int = Field(2, ge=1)
    """Users that an item needs to be in the solve; all others score 0."""
    solver: Literal["auto", "dense", "sparse"] = "auto"
    """`dense`: exact, for up to 20,000 items with `min_users`, cubic in their number; `sparse`: each item on its
    neighbours alone, for any number; `auto`: dense where it can be."""
    neighbours: int = Field(400, ge=1)
    """Of the sparse solver: most neighbours of an item, and so most weights stored per item. An item has two per user,
    at least 50."""
    history_half_life_days: float | None = Field(None, gt=0)
    """Half-life of the user's own events before the newest one, in days; `null`: no decay. Used in scoring only:
    sources that differ in nothing else share one fit."""
    memory_gb: float = Field(4.0, gt=0)
    """Memory for the dense solve of m items: float64 if 8 m² bytes fit, else float32, refined and checked."""
    store_inverse: bool = False
    """Store the inverse too, if solved densely in float64: `jobs.forget` then needs no new solve. It adds 4 m² bytes to
    the model, one triangle of float64. The sparse solver has no inverse: `jobs.forget` then fits again."""

    scoring_only = RetrieverSettings.scoring_only | {"history_half_life_days", "memory_gb"}

    @model_validator(mode="after")
    def _inverse_of_a_dense_solve(self) -> Self:
        if self.store_inverse and self.solver == "sparse":
            raise ValueError("store_inverse needs the dense solver: the sparse one has no inverse")
        return self


@RETRIEVERS.register
class EaseRetriever(Retriever):
    """A linear item-item model in closed form."""

    name = "ease"
    settings_class = EaseSettings

    def __init__(
        self,
        weights: Float32s | sp.csr_matrix,
        active: Int32s,
        items: int,
        settings: EaseSettings,
        inverse: Float64s | None = None,
    ) -> None:
        self.weights = weights  # B: dense [active, active], or CSR [items, items]
        self.active = active  # item codes in the solve, ascending
        self.items = items
        self.settings = settings
        self._on_device: torch.Tensor | None = None
        self.inverse = inverse  # P, its lower triangle row by row, [active (active + 1) / 2]; None: not stored

    @classmethod
    def fit(cls, data: FitData, settings: EaseSettings) -> Self:
        items = data.matrix.shape[1]
        active = active_items(data, settings)
        if solver_of(settings, len(active)) == "sparse":
            found = neighbourhood_weights(data.matrix[:, active].tocsr(), settings.regularization, settings.neighbours)
            return cls(remap_cells(found, active.astype(np.int64), items), active, items, settings)
        whole = len(active) == items
        gram = data.gram if items <= MAX_DENSE_ITEMS else gram_matrix(data.matrix[:, active])
        gram = gram if whole or len(gram) == len(active) else gram[np.ix_(active, active)]
        inverse = regularised_inverse(gram, settings.regularization, settings.memory_gb)
        stored = packed(inverse) if settings.store_inverse and inverse.dtype == np.float64 else None
        return cls(weights_of(inverse), active, items, settings, stored)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays: dict[str, npt.NDArray[Any]] = {"active": self.active, "items": np.array([self.items], np.int64)}
        arrays |= {"weights": self.weights} if isinstance(self.weights, np.ndarray) else csr_arrays(self.weights)
        return arrays if self.inverse is None else {**arrays, "inverse": self.inverse}

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: EaseSettings) -> Self:
        weights = arrays["weights"] if "weights" in arrays else csr_of(arrays)
        return cls(weights, arrays["active"], int(arrays["items"][0]), settings, arrays.get("inverse"))

    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        new = codes[self.active]
        order = np.argsort(new)[np.count_nonzero(new < 0) :]
        active = new[order].astype(np.int32)
        if not isinstance(self.weights, np.ndarray):
            return type(self)(remap_cells(self.weights, codes, items), active, items, self.settings)
        weights = np.ascontiguousarray(self.weights[np.ix_(order, order)])
        return type(self)(weights, active, items, self.settings)

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu" or not isinstance(self.weights, np.ndarray):
            return self
        moved = copy(self)
        moved._on_device = from_numpy(self.weights).to(device)
        return moved

    @property
    def bytes_per_user(self) -> int:
        return 4 * len(self.active) if isinstance(self.weights, np.ndarray) else 0

    def user_scores(self, user_histories: UserHistories) -> UserScores:
        matrix = user_histories.matrix(self.settings.history_half_life_days)
        if not isinstance(self.weights, np.ndarray):
            return SparseScores(matrix, self.weights)
        own = matrix if len(self.active) == self.items else matrix[:, self.active]
        return DenseScores(own, self.weights, self.active, self._slot, self._on_device)

    @classmethod
    def summary(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
        solver, weights = ("dense", arrays["weights"]) if "weights" in arrays else ("sparse", arrays["data"])
        return f"{solver} solver, {len(arrays['active']):,} items, {weights.size:,} weights"

    @cached_property
    def _slot(self) -> Int64s:
        slot = np.full(self.items, -1, np.int64)
        slot[self.active] = np.arange(len(self.active))
        return slot


def active_items(data: FitData, settings: EaseSettings) -> Int32s:
    """Codes of the items with enough users for the solve."""
    users = np.bincount(data.matrix.indices, minlength=data.matrix.shape[1])
    return np.flatnonzero(users >= settings.min_users).astype(np.int32)


def solver_of(settings: EaseSettings, active: int) -> Literal["dense", "sparse"]:
    """The solver for this number of items. Raises ConfigError if `dense` is asked for too many."""
    if settings.solver == "dense" and active > MAX_DENSE_ITEMS:
        raise ConfigError(
            f"the dense solver takes up to {MAX_DENSE_ITEMS:,} items, and {active:,} have enough events",
            where="retrieval.sources.ease.solver",
            hint="set it to auto or sparse, or raise retrieval.sources.ease.min_users",
        )
    if settings.solver == "auto":
        return "dense" if active <= MAX_DENSE_ITEMS else "sparse"
    return settings.solver


def regularised_inverse(
    gram: npt.NDArray[np.float32], regularization: float, memory_gb: float = 4.0
) -> npt.NDArray[Any]:
    """P [items, items] from X'X; solved in float64 if that fits into memory_gb, else in float32.

    Raises DataError if float32 is not precise enough even after one step of refinement.
    """
    size = len(gram)
    if not size:
        return np.zeros((0, 0))
    exact = 8 * size * size <= memory_gb * 2**30
    inverse = _inverse(gram, regularization, np.float64 if exact else np.float32)
    if not exact and (error := residual(gram, regularization, inverse)) > _RESIDUAL:
        inverse = _refine(gram, regularization, inverse)
        if (error := residual(gram, regularization, inverse)) > _RESIDUAL:
            raise DataError(
                f"EASE cannot be solved in float32: residual {error:.1e}",
                where="retrieval.sources.ease",
                hint="raise regularization, or memory_gb so that float64 is used",
            )
    return inverse


def weights_of(inverse: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """B [items, items] float32 from P, in float64 or float32."""
    size, diagonal = len(inverse), inverse.diagonal().copy()
    weights = np.empty((size, size), np.float32)
    for start in range(0, size, 1024):  # in blocks, to bound memory
        weights[start : start + 1024] = -inverse[start : start + 1024] / diagonal
    np.fill_diagonal(weights, 0)
    return weights


def packed(inverse: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The lower triangle of a symmetric matrix, row by row, [m (m + 1) / 2]."""
    triangle = np.empty(len(inverse) * (len(inverse) + 1) // 2)
    for row in range(len(inverse)):
        triangle[row * (row + 1) // 2 : (row + 1) * (row + 2) // 2] = inverse[row, : row + 1]
    return triangle


def unpacked(triangle: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """The symmetric matrix [size, size] of a packed triangle."""
    inverse = np.empty((size, size))
    for row in range(size):
        inverse[row, : row + 1] = triangle[row * (row + 1) // 2 : (row + 1) * (row + 2) // 2]
    _mirror(inverse)
    return inverse


def _inverse(gram: npt.NDArray[np.float32], regularization: float, dtype: Any) -> npt.NDArray[Any]:
    """(gram + lambda I)^-1 by Cholesky, in place in one matrix of `dtype`."""
    square = np.array(gram, dtype, order="F")
    square[np.diag_indices_from(square)] += regularization
    kind = "d" if dtype is np.float64 else "s"
    factor, failed = getattr(lapack, f"{kind}potrf")(square, lower=True, overwrite_a=True, clean=False)
    if not failed:
        factor, failed = getattr(lapack, f"{kind}potri")(factor, lower=True, overwrite_c=True)
    if failed:
        raise DataError(
            "EASE's matrix is not positive definite", where="retrieval.sources.ease", hint="raise regularization"
        )
    _mirror(factor)
    inverse: npt.NDArray[Any] = factor
    return inverse


def _mirror(matrix: npt.NDArray[Any]) -> None:
    """Copy the lower triangle to the upper one, in place."""
    for start in range(0, len(matrix), 1024):
        stop = min(start + 1024, len(matrix))
        matrix[:start, start:stop] = matrix[start:stop, :start].T
        corner = np.tril(matrix[start:stop, start:stop])
        matrix[start:stop, start:stop] = corner + np.tril(corner, -1).T


def residual(gram: npt.NDArray[np.float32], regularization: float, inverse: npt.NDArray[Any]) -> float:
    """The largest error of A P = I over 64 columns spread evenly, computed in float64."""
    columns = np.unique(np.linspace(0, len(gram) - 1, 64).astype(np.int64))
    some = inverse[:, columns].astype(np.float64)
    error = regularization * some
    for start in range(0, len(gram), 1024):
        error[start : start + 1024] += gram[start : start + 1024].astype(np.float64) @ some
    error[columns, np.arange(len(columns))] -= 1
    return float(np.abs(error).max())


def _refine(gram: npt.NDArray[np.float32], regularization: float, inverse: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One Newton step, P (2 I - A P)."""
    product: npt.NDArray[Any] = -(gram @ inverse) - np.float32(regularization) * inverse
    product[np.diag_indices_from(product)] += 2
    refined: npt.NDArray[Any] = inverse @ product
    symmetric: npt.NDArray[Any] = (refined + refined.T) / 2
    return symmetric
