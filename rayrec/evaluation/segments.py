"""Which users a difference holds for: groups by what was known of them before the date.

Three ways to tell users apart, each a partition: how many positive events they have, how long they have been there, and
the category that most of their events are of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from rayrec.data.schemas import MICROSECONDS_PER_DAY

MIN_SEGMENT_USERS = 30  # users below which a segment is not judged
_LENGTHS = ((1, "1–4 events"), (5, "5–19 events"), (20, "20–99 events"), (100, "100 events or more"))
_TENURES = ((0.0, "first week"), (7.0, "first month"), (30.0, "first quarter"), (91.0, "longer than a quarter"))
_MOST_KINDS = 6


@dataclass(frozen=True)
class SegmentFeatures:
    """What the segments go by, of each judged user [users]."""

    events: npt.NDArray[np.int64]  # positive ones in the history
    tenure: npt.NDArray[np.float64]  # days between the oldest event that is known and the date; NaN without one
    kind: npt.NDArray[np.int32]  # the category of most events; -1 without one

    @classmethod
    def concat(cls, parts: Sequence[SegmentFeatures]) -> SegmentFeatures:
        fields = ("events", "tenure", "kind")
        return cls(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


def main_category(category_shares: sp.csr_matrix) -> npt.NDArray[np.int32]:
    """The category with the largest share in each row, [users]; the first of equals, -1 in an empty row."""
    found = np.full(category_shares.shape[0], -1, np.int32)
    row = np.repeat(np.arange(category_shares.shape[0]), np.diff(category_shares.indptr))
    order = np.lexsort((category_shares.indices, -category_shares.data, row))
    rows, first = np.unique(row[order], return_index=True)
    found[rows] = category_shares.indices[order][first]
    return found


def segments(traits: SegmentFeatures, kinds: Sequence[str]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Name and users [users] of every segment that has at least FEWEST; names are unique."""
    named = [*_bands(traits.events, _LENGTHS), *_bands(traits.tenure, _TENURES), *_kinds(traits.kind, kinds)]
    for name, users in named:
        if np.count_nonzero(users) >= MIN_SEGMENT_USERS:
            yield name, users


def tenure_days(oldest: npt.NDArray[np.int64], cutoff: int) -> npt.NDArray[np.float64]:
    """Days from `oldest` [users] to `cut`, microseconds UTC."""
    return (cutoff - oldest) / MICROSECONDS_PER_DAY


def _bands(
    values: npt.NDArray[np.floating] | npt.NDArray[np.int64], bands: Sequence[tuple[float, str]]
) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    bounds = [*(low for low, _ in bands), np.inf]
    for (low, name), high in zip(bands, bounds[1:], strict=True):
        yield name, (values >= low) & (values < high)


def _kinds(kind: npt.NDArray[np.int32], kinds: Sequence[str]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    count = np.bincount(kind[kind >= 0], minlength=len(kinds))
    most = np.argsort(-count, kind="stable")[:_MOST_KINDS]
    for code in most:
        yield f"mostly {kinds[code]}", kind == code
    if len(kinds) > _MOST_KINDS:
        yield "mostly other categories", (kind >= 0) & ~np.isin(kind, most)
