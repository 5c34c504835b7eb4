"""Cold-start fallback: users with a short history are ranked by one source instead of the blender.

The blender is fitted on users with `blend.min_events` events, and is unreliable for users without history. Such users
occur only with `data.min_events: 0`, or after denoising.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import descending_keys, padded_rows, positions_of, reassign_scores
from rayrec.numerics.types import Bools, Float32s


@dataclass(frozen=True)
class Fallback:
    """Orders users with fewer retained positive events than `below_events` by the score of `source` alone."""

    source: str
    below_events: int

    @property
    def label(self) -> str:
        """Value of the published `source` column."""
        return f"fallback:{self.source}"


def reorder_by(theirs: Ragged, own: Ragged, users: Bools) -> Ragged:
    """Reassign the scores `own`, ragged float32, of these users [users] in the order of the scores `theirs`.

    The values of `own` are kept, so that exploration does not depend on the scale of the source's scores.
    """
    rows = np.flatnonzero(users)
    cells = own.like(np.arange(len(own.values))).take(rows)
    result: Float32s = own.values.copy()
    for block in padded_rows(cells.offsets):
        at = cells.values[block.take]
        new, old = (
            positions_of(np.sort(descending_keys(scores.values[at], block.mask), axis=1)) for scores in (theirs, own)
        )
        best_first = own.values[np.take_along_axis(at, old, axis=1)]
        falling = reassign_scores(best_first, block.mask, np.full(len(at), -np.inf, np.float32))
        result[np.take_along_axis(at, new, axis=1)[block.mask]] = falling[block.mask]
    return own.like(result)
