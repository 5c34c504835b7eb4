"""Selection of training users without gradients: at random, by similarity to validation users, and stratified."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.cluster.vq import kmeans2

from rayrec.instructions.bm25 import bm25_weights
from rayrec.reranking.training.data_selection.selection_pool import (
    SELECTION_METHODS,
    SelectionPool,
    Weights,
    top_weights,
)
from rayrec.reranking.training.tuning_examples import Int

_MAX_CLUSTERS = 64
_USERS_PER_CLUSTER = 4  # average number selected, at least
_ROUNDS = 20


@SELECTION_METHODS.register_as("random")
def by_random(pool: SelectionPool, count: int) -> Weights:
    """Users at random: the baseline of the other methods."""
    return top_weights(pool.rng("random").permutation(len(pool)).astype(np.float64), count)


@SELECTION_METHODS.register_as("similar")
def by_similarity(pool: SelectionPool, count: int) -> Weights:
    """Users who consumed what validation users consumed last: BM25 with users as documents and items as words.

    A user's score is the sum, over the distinct items of the history, of the number of validation users who consumed
    the item last times its BM25 weight, at a term frequency of 1.
    """
    past, items = pool.past.item, pool.layout.vocabulary.items
    user, item = np.divmod(np.unique(past.rows * items + past.values), items)
    consumed = sp.csr_matrix((np.ones(len(user)), (user, item)), shape=(len(pool), items))
    wanted = np.bincount(pool.validation_targets.target.values, minlength=items)
    lengths = np.diff(consumed.indptr).astype(np.float64)
    return top_weights(bm25_weights(consumed, lengths) @ wanted, count)


@SELECTION_METHODS.register_as("diverse")
def by_diversity(pool: SelectionPool, count: int) -> Weights:
    """A stratified sample: k-means clusters of users, each with its share of the budget.

    A user is represented by the mean of the initial vectors of its items (see tuning.item_init), normalised. Every
    cluster gives at least one user, sampled at random; its users weigh the size of the cluster over the number sampled,
    so that each cluster retains its weight among all users.
    """
    clusters = min(_MAX_CLUSTERS, max(1, count // _USERS_PER_CLUSTER))
    return stratified_sample(cluster_users(pool, clusters), count, pool.rng("diverse"))


def cluster_users(pool: SelectionPool, clusters: int) -> Int:
    """The cluster of each user, [users]; clusters may be empty."""
    item = pool.events.item
    share = np.repeat(1 / item.lengths, item.lengths)
    consumed = sp.csr_matrix((share, item.values, item.offsets), shape=(len(pool), pool.layout.vocabulary.items))
    means = consumed @ pool.initial_model().vectors().detach().cpu().double().numpy()
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")  # `stratified_sample` allows it
        label: Int = kmeans2(means, clusters, iter=_ROUNDS, minit="++", rng=pool.rng("k-means"))[1]
    return label


def stratified_sample(label: Int, count: int, rng: np.random.Generator) -> Weights:
    """Weights [users] of `count` users, sampled from the clusters `label` [users] in proportion to their sizes.

    `count` must be at least the number of clusters in use.
    """
    used, label, sizes = np.unique(label, return_inverse=True, return_counts=True)
    sample = 1 + apportion(count - len(used), sizes - 1)
    order = np.lexsort((rng.random(len(label)), label))
    place = np.arange(len(label)) - (np.cumsum(sizes) - sizes)[label[order]]
    rows = order[place < sample[label[order]]]
    weights = np.zeros(len(label), np.float32)
    weights[rows] = (sizes / sample)[label[rows]] * (count / len(label))
    return weights


def apportion(seats: int, sizes: npt.NDArray[np.int64]) -> Int:
    """Seats in proportion to sizes [n], by largest remainders; none gets more than its size."""
    whole, rest = np.divmod(seats * sizes, max(1, int(sizes.sum())))
    whole[np.argsort(-rest, kind="stable")[: seats - int(whole.sum())]] += 1
    return whole
