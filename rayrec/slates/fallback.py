"""Users of whom little is known: one source's order instead of the blend's.

The blend learns from users who teach (blend.min_events); for somebody without history it is a guess about guesses.
The users are here at all only if `data.min_events` lets them through: with its default of 1 whoever has no positive
event is ineligible; min_events: 0 brings them in, and denoising may leave others with fewer than they had.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import descending_keys, padded_rows, positions_of, reassign_scores
from rayrec.slates.scored_candidates import Bools, Floats


@dataclass(frozen=True)
class Fallback:
    """Users with fewer kept positive events than `below_events` are ordered by the score of `source` alone."""

    source: str
    below_events: int

    @property
    def label(self) -> str:
        """What the published `source` says."""
        return f"fallback:{self.source}"


def reorder_by(theirs: Ragged, own: Ragged, users: Bools) -> Ragged:
    """`own`, ragged float32, for these users [users] dealt out anew in the order of the scores `theirs`; see `carried`.

    So chance spreads as widely as around the blend's own order, whatever the scale of the source's scores.
    """
    rows = np.flatnonzero(users)
    cells = own.like(np.arange(len(own.values))).take(rows)
    result: Floats = own.values.copy()
    for block in padded_rows(cells.offsets):
        at = cells.values[block.take]
        new, old = (
            positions_of(np.sort(descending_keys(scores.values[at], block.mask), axis=1)) for scores in (theirs, own)
        )
        best_first = own.values[np.take_along_axis(at, old, axis=1)]
        falling = reassign_scores(best_first, block.mask, np.full(len(at), -np.inf, np.float32))
        result[np.take_along_axis(at, new, axis=1)[block.mask]] = falling[block.mask]
    return own.like(result)
