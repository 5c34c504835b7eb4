"""A stratified sample: k-means clusters of users, each with its share of the budget, and weights that mend the rest.

A user is the mean of the vectors that the model's items start from (item factors, words or both: tuning.item_init), at
length 1. Every cluster gives at least one user, drawn at random; the weight of its users is the cluster's size over the
number drawn, so that every cluster weighs what it weighs among all users, however few are drawn.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.cluster.vq import kmeans2

from rayrec.reranking.training.data_selection.selection_pool import SELECTION_METHODS, SelectionPool, Weights
from rayrec.reranking.training.tuning_data import Int

_CLUSTERS = 64  # at most
_PER_CLUSTER = 4  # users chosen, on average, at least
_ROUNDS = 20


@SELECTION_METHODS.register_as("diverse")
def by_diversity(pool: SelectionPool, count: int) -> Weights:
    """A stratified sample over clusters of users."""
    clusters = min(_CLUSTERS, max(1, count // _PER_CLUSTER))
    return stratified_sample(cluster_users(pool, clusters), count, pool.rng("diverse"))


def cluster_users(pool: SelectionPool, clusters: int) -> Int:
    """[users] each one's cluster; some may be empty."""
    item = pool.events.item
    share = np.repeat(1 / item.lengths, item.lengths)
    taking = sp.csr_matrix((share, item.values, item.offsets), shape=(len(pool), pool.layout.vocabulary.items))
    means = taking @ pool.initial_model().vectors().detach().cpu().double().numpy()
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")  # `stratified` knows
        label: Int = kmeans2(means, clusters, iter=_ROUNDS, minit="++", rng=pool.rng("k-means"))[1]
    return label


def stratified_sample(label: Int, count: int, rng: np.random.Generator) -> Weights:
    """Weights [users] of so many users, drawn from the clusters [users] in proportion. `count` >= clusters in use."""
    used, label, sizes = np.unique(label, return_inverse=True, return_counts=True)
    drawn = 1 + apportion(count - len(used), sizes - 1)
    order = np.lexsort((rng.random(len(label)), label))
    place = np.arange(len(label)) - (np.cumsum(sizes) - sizes)[label[order]]
    rows = order[place < drawn[label[order]]]
    weights = np.zeros(len(label), np.float32)
    weights[rows] = (sizes / drawn)[label[rows]] * (count / len(label))
    return weights


def apportion(seats: int, sizes: npt.NDArray[np.int64]) -> Int:
    """So many seats in proportion to sizes [n], by largest remainders; none gets more than its size."""
    whole, rest = np.divmod(seats * sizes, max(1, int(sizes.sum())))
    whole[np.argsort(-rest, kind="stable")[: seats - int(whole.sum())]] += 1
    return whole
