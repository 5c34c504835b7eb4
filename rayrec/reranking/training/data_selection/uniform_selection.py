"""Users drawn without looking at them: the baseline of every other way of choosing."""

from __future__ import annotations

import numpy as np

from rayrec.reranking.training.data_selection.selection_pool import SELECTION_METHODS, SelectionPool, Weights, best


@SELECTION_METHODS.register_as("random")
def by_random(pool: SelectionPool, count: int) -> Weights:
    """Users drawn at random: the baseline of the other methods."""
    return best(pool.rng("random").permutation(len(pool)).astype(np.float64), count)
