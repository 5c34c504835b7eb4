"""The interface of retrievers and their registry. A retriever proposes and scores items from a
user's history.

A new retriever is a new file with one class, registered by name. All retrievers pass
tests/retrieval/test_retriever_contract.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch

from rayrec.config.registry import Registry
from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.user_scores import UserScores
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.user_histories import UserHistories

MAX_DENSE_ITEMS = 20_000  # catalogue size up to which item-item matrices are held densely


class Retriever(ABC):
    """A retriever: fitted once, saved as arrays, loaded in every worker."""

    name: ClassVar[str]
    settings_class: ClassVar[type[RetrieverSettings]]  # of an entry of `retrieval.sources`
    personalized: ClassVar[bool] = True  # False: the same scores for all users
    shares_fit_with: ClassVar[str | None] = None  # the retriever whose fit it uses

    # `settings` below is an instance of `settings_class`.

    @classmethod
    @abstractmethod
    def fit(cls, data: FitData, settings: Any) -> Self:
        """Fit on training data. The result must not depend on how users were sharded."""

    @abstractmethod
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The fitted state for `load`, as arrays for safetensors."""

    @classmethod
    @abstractmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Any) -> Self: ...

    @abstractmethod
    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        """The same model for another catalogue: item i becomes codes[i], or is dropped where that is -1.

        Items unknown to the model score 0.
        """

    def to(self, device: torch.device) -> Self:
        """The same retriever multiplying on this device; itself if it computes on the CPU only."""
        return self

    @abstractmethod
    def user_scores(self, user_histories: UserHistories) -> UserScores:
        """The scores of these users; each user's depend on that user only, bit by bit.

        A personalized retriever scores items without information for the user exactly 0; they are not proposed. One
        whose scores are the same for all returns SharedScores.
        """

    @classmethod
    def summary(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
        """What the fit with these arrays chose by itself, for the report; "": nothing."""
        return ""

    @property
    def bytes_per_user(self) -> int:
        """What `user_scores` holds per user at once; callers pass as many users as fit."""
        return 0


def all_item_scores(retriever: Retriever, user_histories: UserHistories) -> npt.NDArray[np.float32]:
    """Scores [users, items]: for tests and benchmarks on small catalogues."""
    users, items = len(user_histories), user_histories.items
    everything = Ragged.from_lengths(np.tile(np.arange(items, dtype=np.int32), users), np.full(users, items))
    return retriever.user_scores(user_histories).at(everything).reshape(users, items)


RETRIEVERS: Registry[type[Retriever]] = Registry("retrieval.sources.NAME.method", "retriever")


def remap_rows(values: npt.NDArray[Any], codes: npt.NDArray[np.int64], items: int, fill: Any = 0) -> npt.NDArray[Any]:
    """Per-item values [old items, ...] by the codes of another catalogue [items, ...], see `Retriever.remap`."""
    moved = np.empty((items, *values.shape[1:]), values.dtype)
    moved[:] = fill
    moved[codes[codes >= 0]] = values[codes >= 0]
    return moved
