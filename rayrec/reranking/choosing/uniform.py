"""Users drawn without looking at them: the baseline of every other way of choosing."""

from __future__ import annotations

import numpy as np

from rayrec.reranking.choosing.base import Pool, Weights, best


def at_random(pool: Pool, count: int) -> Weights:
    return best(pool.rng("random").permutation(len(pool)).astype(np.float64), count)
