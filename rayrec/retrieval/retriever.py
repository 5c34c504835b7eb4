"""What every retriever is: a score for every item of the catalogue, from a user's history.

A new retriever is a new file with one class, registered by name, plus its test; all pass
tests/retrieval/test_retriever_contract.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from rayrec.config.registry import Registry
from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged

MAX_DENSE_ITEMS = 20_000  # items: above it item-item matrices are not held densely


@dataclass(frozen=True)
class FitData:
    """What retrievers learn from: positives only, before the date."""

    matrix: sp.csr_matrix  # float32 [users, items]: the summed positive weight of each (user, item), at most 1
    user: npt.NDArray[np.int32]  # one entry an event, [events], sorted by (user, ts)
    item: npt.NDArray[np.int32]
    ts: npt.NDArray[np.int64]  # microseconds UTC
    weight: npt.NDArray[np.float32]
    cutoff: int  # microseconds UTC: nothing at or after this is known

    @cached_property
    def gram(self) -> npt.NDArray[np.float32]:
        """X'X [items, items], summed over blocks of users: exact counts for weights of 0 and 1."""
        return gram_matrix(self.matrix)

    @cached_property
    def age_days(self) -> npt.NDArray[np.float64]:
        """How long before the cut each event was, [events]."""
        return (self.cutoff - self.ts) / MICROSECONDS_PER_DAY


def gram_matrix(matrix: sp.csr_matrix, block: int = 131_072) -> npt.NDArray[np.float32]:
    """X'X [items, items] float32 from CSR rows, block by block. Sums of 0 and 1 are exact up to 2^24 users an item."""
    items = matrix.shape[1]
    gram = np.zeros((items, items), np.float32)
    for start in range(0, matrix.shape[0], block):
        rows = matrix[start : start + block]
        part = (rows.T @ rows).tocoo()
        gram[part.row, part.col] += part.data  # a sparse product names each cell once
    return gram


@dataclass(frozen=True)
class UserHistories:
    """Users' kept positive events as retrievers see them; ragged members share their offsets, oldest first."""

    item: Ragged  # int32 codes
    ts: Ragged  # int64 microseconds UTC
    weight: Ragged  # float32: event weight times keep weight, > 0
    items: int  # size of the catalogue

    def __len__(self) -> int:
        return len(self.item)

    def matrix(self, half_life_days: float | None = None) -> sp.csr_matrix:
        """float32 CSR [users, items]: summed weights, at most 1, indices sorted.

        With a half-life, each event first decays by its distance from the user's own newest event.
        """
        weight = self.weight.values.astype(np.float32)
        if half_life_days is not None and len(weight):
            newest = np.maximum.reduceat(self.ts.values, self.item.offsets[:-1][self.item.lengths > 0])
            distance = np.repeat(newest, self.item.lengths[self.item.lengths > 0]) - self.ts.values
            weight = weight * np.exp2(-distance / (half_life_days * MICROSECONDS_PER_DAY)).astype(np.float32)
        return clipped_matrix(weight, self.item.values, self.item.offsets, self.items)

    def __getitem__(self, users: slice) -> UserHistories:
        start, stop, _ = users.indices(len(self))
        item, ts, weight = (_rows(part, start, stop) for part in (self.item, self.ts, self.weight))
        return UserHistories(item, ts, weight, self.items)


def clipped_matrix(
    weight: npt.NDArray[np.float32], item: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], items: int
) -> sp.csr_matrix:
    """float32 CSR [users, items] with each cell the sum of its events' weights, at most 1."""
    index = np.int32 if offsets[-1] < np.iinfo(np.int32).max else np.int64
    matrix = sp.csr_matrix(
        (weight.copy(), item.astype(index), offsets.astype(index)), shape=(len(offsets) - 1, items), copy=False
    )
    matrix.sum_duplicates()
    np.minimum(matrix.data, 1, out=matrix.data)
    return matrix


def _rows(part: Ragged, start: int, stop: int) -> Ragged:
    offsets = part.offsets[start : stop + 1]
    return Ragged(part.values[offsets[0] : offsets[-1]], offsets - offsets[0])


class Retriever(ABC):
    """Fitted once, saved as plain arrays, loaded in every worker."""

    name: ClassVar[str]
    settings_class: ClassVar[type[RetrieverSettings]]  # of an entry of `retrieval.sources`
    personalized: ClassVar[bool] = True  # False: the same scores for every user (popularity)
    shares_fit_with: ClassVar[str | None] = None  # the retriever whose fit of the same settings this one scores with

    # `settings` below is an instance of `settings_class`.

    @classmethod
    @abstractmethod
    def fit(cls, data: FitData, settings: Any) -> Self:
        """The result does not depend on how users were sharded."""

    @abstractmethod
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `load` needs, as arrays safetensors can hold."""

    @classmethod
    @abstractmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Any) -> Self: ...

    @abstractmethod
    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        """The same model for another catalogue: item i becomes codes[i], or leaves where that is -1.

        Items that the model does not know score 0.
        """

    @abstractmethod
    def scores(self, user_histories: UserHistories) -> npt.NDArray[np.float32]:
        """[users, items]; each row depends on that user alone, to the last bit.

        A personal retriever gives exactly 0 where it knows nothing of an item for this user: no opinion, never a
        candidate. One that is not personal gives a single row, [1, items].
        """


RETRIEVERS: Registry[type[Retriever]] = Registry("retrieval.sources.NAME.method", "retriever")
