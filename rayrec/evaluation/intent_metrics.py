"""Intent-based metrics per user: how well a slate serves each thing that the user turned out to want.

A user who consumes a film and a cookbook has two intents; nDCG over both together may come from one alone. As in the
data set of intent-based ranking DL-MIA (Anand et al. 2024, arXiv 2408.17103), relevance is judged by intent. The
metrics are our choice (the data set has labels by intent): an item's intent is its category, and a user's intents are
the categories of his relevant items.

- intent_ndcg@10: the mean over the user's intents of nDCG@10 with only the items of that intent relevant,
- intent_recall@10: the share of his intents with a relevant item among the first ten (I-rec, Sakai & Song 2011).
"""

from __future__ import annotations

import numpy as np

from rayrec.evaluation.metrics import RelevantItems, is_relevant
from rayrec.numerics.types import Float64s, Int32s

INTENT_METRICS = ("intent_ndcg@10", "intent_recall@10")
_DEPTH = 10
_DISCOUNT = 1 / np.log2(np.arange(2, _DEPTH + 2))
_IDEAL = np.concatenate([[0.0], np.cumsum(_DISCOUNT)])  # with 0 to 10 relevant items at the top


def intent_metrics(top: Int32s, relevant: RelevantItems, category: Int32s) -> dict[str, Float64s]:
    """INTENT_METRICS [users] of rankings `top` [users, 10] of item codes (−1: none); NaN for users without an intent.

    `category` [items]: codes, −1 without one; such items belong to no intent.
    """
    width, matrix = int(category.max(initial=-1)) + 1, relevant.matrix
    wanted = np.repeat(np.arange(len(relevant)), np.diff(matrix.indptr)) * width + category[matrix.indices]
    intent, size = np.unique(wanted[category[matrix.indices] >= 0], return_counts=True)
    row, rank = np.nonzero(top >= 0)
    item = top[row, rank].astype(np.int64)
    hit = is_relevant(matrix, row, item) & (category[item] >= 0)
    at = np.searchsorted(intent, row[hit] * width + category[item[hit]])
    gain = np.bincount(at, _DISCOUNT[rank[hit]], minlength=len(intent))
    values = (gain / _IDEAL[np.minimum(size, _DEPTH)], (gain > 0).astype(np.float64))
    user = intent // max(width, 1)
    many = np.bincount(user, minlength=len(relevant)).astype(np.float64)
    many[many == 0] = np.nan
    means = (np.bincount(user, value, minlength=len(relevant)) / many for value in values)
    return dict(zip(INTENT_METRICS, means, strict=True))
