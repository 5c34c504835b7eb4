"""Users who took what validation users took last: BM25 with users as documents and items as terms.

A user's score is the sum, over the distinct items i of the history, of q_i idf_i (k1 + 1) / (1 + k1 (1 - b + b L)): q_i
is how many validation users took i last, idf_i = log(1 + (n - n_i + 1/2) / (n_i + 1/2)) with n_i the users who have i,
and L the user's number of distinct items over its mean (Robertson & Zaragoza 2009, section 3; a term frequency of 1).
"""

from __future__ import annotations

import numpy as np

from rayrec.reranking.training.data_selection.selection_pool import SELECTION_METHODS, SelectionPool, Weights, best

_K1, _B = 1.2, 0.75


@SELECTION_METHODS.register_as("similar")
def by_similarity(pool: SelectionPool, count: int) -> Weights:
    """Users whose items the validation users consumed last, by BM25."""
    past, items = pool.past.item, pool.layout.vocabulary.items
    user, item = np.divmod(np.unique(past.rows * items + past.values), items)
    having = np.bincount(item, minlength=items)
    rarity = np.log1p((len(pool) - having + 0.5) / (having + 0.5))
    sizes = np.bincount(user, minlength=len(pool))
    damping = (_K1 + 1) / (1 + _K1 * (1 - _B + _B * sizes / sizes.mean()))
    asked = np.bincount(pool.validation_targets.target.values, minlength=items)
    return best(np.bincount(user, (asked * rarity)[item], minlength=len(pool)) * damping, count)
