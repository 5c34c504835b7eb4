"""User segments from the history before the date: by number of positive events, tenure and main category."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

MIN_SEGMENT_USERS = 30  # smaller segments are dropped
_LENGTHS = ((1, "1–4 events"), (5, "5–19 events"), (20, "20–99 events"), (100, "100 events or more"))
_TENURES = ((0.0, "first week"), (7.0, "first month"), (30.0, "first quarter"), (91.0, "longer than a quarter"))
_MAX_CATEGORIES = 6


@dataclass(frozen=True)
class SegmentFeatures:
    """The features that segments are defined by, [users]."""

    events: npt.NDArray[np.int64]  # positive ones in the history
    tenure: npt.NDArray[np.float64]  # days from the oldest event in the history to the date
    category: npt.NDArray[np.int32]  # of most events; -1 without one
    activity: npt.NDArray[np.float64]  # [users, covariates]: see PublishedRun.activity

    @classmethod
    def concat(cls, parts: Sequence[SegmentFeatures]) -> SegmentFeatures:
        fields = ("events", "tenure", "category", "activity")
        return cls(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


def main_category(category_shares: sp.csr_matrix) -> npt.NDArray[np.int32]:
    """The category with the largest share in each row, [users]; the first of equals, -1 in an empty row."""
    found = np.full(category_shares.shape[0], -1, np.int32)
    row = np.repeat(np.arange(category_shares.shape[0]), np.diff(category_shares.indptr))
    order = np.lexsort((category_shares.indices, -category_shares.data, row))
    rows, first = np.unique(row[order], return_index=True)
    found[rows] = category_shares.indices[order][first]
    return found


def segments(features: SegmentFeatures, categories: Sequence[str]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Name and users [users] of every segment with at least MIN_SEGMENT_USERS; names are unique."""
    by_history = [*_bands(features.events, _LENGTHS), *_bands(features.tenure, _TENURES)]
    for name, users in [*by_history, *_by_category(features.category, categories)]:
        if np.count_nonzero(users) >= MIN_SEGMENT_USERS:
            yield name, users


def segment_family(name: str) -> str:
    """What a segment is defined by: segments of one family are disjoint."""
    if name in {label for _, label in _LENGTHS}:
        return "history length"
    return "tenure" if name in {label for _, label in _TENURES} else "main category"


def _bands(
    values: npt.NDArray[np.floating] | npt.NDArray[np.int64], bands: Sequence[tuple[float, str]]
) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    bounds = [*(low for low, _ in bands), np.inf]
    for (low, name), high in zip(bands, bounds[1:], strict=True):
        yield name, (values >= low) & (values < high)


def _by_category(
    category: npt.NDArray[np.int32], categories: Sequence[str]
) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    count = np.bincount(category[category >= 0], minlength=len(categories))
    most = np.argsort(-count, kind="stable")[:_MAX_CATEGORIES]
    for code in most:
        yield f"mostly {categories[code]}", category == code
    if len(categories) > _MAX_CATEGORIES:
        yield "mostly other categories", (category >= 0) & ~np.isin(category, most)
