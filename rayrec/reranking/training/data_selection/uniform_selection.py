"""Users drawn without looking at them: the baseline of every other way of choosing."""

from __future__ import annotations

import numpy as np

from rayrec.reranking.training.data_selection.selection_pool import SelectionPool, Weights, best


def by_random(pool: SelectionPool, count: int) -> Weights:
    return best(pool.rng("random").permutation(len(pool)).astype(np.float64), count)
