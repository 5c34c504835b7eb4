"""The blender's features of all training candidates: the largest array of the fit, so it holds what differs by
candidate alone. Item features, and their products with user features, are more than half of the columns; they are taken
from a row an item and a row a user wherever a few candidates are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from rayrec.blending.blend_features import USER_FEATURES, ItemFeatures
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float32s, Int32s, Int64s

_USERS_AT_ONCE = 512


@dataclass(frozen=True)
class MatrixPart:
    """What a training window adds to the matrix. `of_scorers`: the `scorer_features` of these users."""

    candidate: Ragged  # int32 item codes
    item_features: ItemFeatures
    user: Float32s  # [users, len(USER_FEATURES)] centred
    of_scorers: Callable[[slice], dict[str, Float32s]]


@dataclass(frozen=True)
class TrainingMatrix:
    """Features [candidates, f], computed for the candidates that `[...]` asks for; columns as in `blend_features`."""

    names: tuple[str, ...]  # [f]
    item_values: Float32s  # [items, i] the first i columns
    item: Int32s  # [candidates] rows of `item_values`
    crossed: tuple[int, ...]  # columns of `item_values` that are multiplied with each user feature: the next columns
    user_values: Float32s  # [users, len(USER_FEATURES)] centred
    user: Int32s  # [candidates] rows of `user_values`
    own: Float32s  # [candidates, s] the last s columns

    @classmethod
    def of(cls, parts: Sequence[MatrixPart]) -> Self:
        """The features of at least one window with users."""
        items = parts[0].item_features
        crossed = [f"{name} x {feature}" for feature in USER_FEATURES for name in items.crossed]
        names, own = _scorer_columns(parts)
        return cls(
            (*items.names, *crossed, *names),
            np.concatenate([part.item_features.values for part in parts]),
            _places([part.candidate.values for part in parts], [len(part.item_features.values) for part in parts]),
            tuple(items.names.index(name) for name in items.crossed),
            np.concatenate([part.user for part in parts]),
            _places([part.candidate.rows for part in parts], [len(part.user) for part in parts]),
            own,
        )

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.own), len(self.names)

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, candidates: Any) -> Float32s:
        of_item, of_user = self.item_values[self.item[candidates]], self.user_values[self.user[candidates]]
        crossed = of_item[:, self.crossed]
        products = (of_user[:, number, None] * crossed for number in range(of_user.shape[1]))
        parts = [of_item, *products, self.own[candidates]]
        result: Float32s = np.concatenate(parts, axis=1)
        return result


def _scorer_columns(parts: Sequence[MatrixPart]) -> tuple[list[str], Float32s]:
    """Names, and values [candidates, s], filled for a few users at a time."""
    total = sum(len(part.candidate.values) for part in parts)
    names, values, end = list[str](), np.empty((total, 0), np.float32), 0
    for part in parts:
        for start in range(0, len(part.candidate), _USERS_AT_ONCE):
            found = part.of_scorers(slice(start, start + _USERS_AT_ONCE))
            if not end:
                names, values = list(found), np.empty((total, len(found)), np.float32)
            stop = end + int(part.candidate.lengths[start : start + _USERS_AT_ONCE].sum())
            for place, name in enumerate(names):
                values[end:stop, place] = found[name]
            end = stop
    return names, values


def _places(parts: Sequence[Int32s | Int64s], sizes: Sequence[int]) -> Int32s:
    """Rows of a concatenation from rows of its parts, which have these sizes."""
    first = np.cumsum([0, *sizes[:-1]])
    places: Int32s = np.concatenate([part + start for part, start in zip(parts, first, strict=True)]).astype(np.int32)
    return places
