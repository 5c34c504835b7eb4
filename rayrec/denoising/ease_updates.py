"""EASE without an event or without a user, exactly, and to first order what every event does to an objective.

P = (X'X + lambda I)^-1, B_jk = -P_jk / P_kk off the diagonal and 0 on it (Steck 2019; REFERENCES section 2). Removing
event (u, i), x_u losing v at item i, changes X'X by W C W' with W = [x_u, e_i], C = [[0, -v], [-v, v^2]]; removing user
u by -x_u x_u'. P follows by Woodbury and Sherman-Morrison.

For an objective J(B) with gradient G = dJ/dB, dJ = <A, dP> with A_jk = -G_jk / P_kk and
A_kk = sum_j G_jk P_jk / P_kk^2, and dP = -P d(X'X) P. So with S = P A P, symmetrised, event (u, i) does
2 v (x_u S)_i - v^2 S_ii to J when it is removed: all events at the price of two products of [items, items].

The trap: these effects do not add up, because the solution moves with each event that goes. Removing the 16% of events
that looked worst to first order took nDCG from .097 to .072 (REFERENCES section 2). Hence `worst_events` gives few at a
time: at most a share of each user's events and of each item's, then fit and measure again.

Who uses it: no job does, and that is why. It is public maths for a study in a notebook, over the P of one's own
(`inverse_of`) or that of a night, which `retrieval.sources.ease.store_inverse` keeps (`retrieval.ease.unpacked`). The
nightly method (`ease`) judges by B alone; `jobs.forget` takes users out of P in blocks (`retrieval.unlearning`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Floats = npt.NDArray[np.float64]


def inverse_of(matrix: sp.csr_matrix, regularization: float) -> Floats:
    """P [items, items] of X [users, items], in float64."""
    gram = (matrix.astype(np.float64).T @ matrix.astype(np.float64)).toarray()
    inverse: Floats = np.linalg.inv(gram + regularization * np.eye(gram.shape[0]))
    return inverse


def weights_of(inverse: Floats) -> Floats:
    """B [items, items] from P."""
    weights = -inverse / inverse.diagonal()
    np.fill_diagonal(weights, 0)
    return weights


def without_event(inverse: Floats, row: npt.NDArray[Any], item: int, loss: float = 1.0) -> Floats:
    """P after the user with profile `row` [items] lost `loss` (not 0) of it at `item`: equal to a refit."""
    w = np.zeros((len(inverse), 2))
    w[:, 0], w[item, 1] = row, 1
    small = np.array([[-1.0, -1 / loss], [-1 / loss, 0.0]])  # C^-1
    pw = inverse @ w
    after: Floats = inverse - pw @ np.linalg.solve(small + w.T @ pw, pw.T)
    return after


def without_user(inverse: Floats, row: npt.NDArray[Any]) -> Floats:
    """P after the user with profile `row` [items] left: equal to a refit."""
    px = inverse @ row
    after: Floats = inverse + np.outer(px, px) / (1 - row @ px)
    return after


def score_gradient(matrix: sp.csr_matrix, coefficient: sp.csr_matrix) -> Floats:
    """dJ/dB [items, items] of J(B) = sum_uj c_uj (x_u B)_j: say, c > 0 at trusted events, < 0 at hard negatives."""
    gradient: Floats = (matrix.T @ coefficient).toarray().astype(np.float64)
    np.fill_diagonal(gradient, 0)
    return gradient


def first_order_effects(matrix: sp.csr_matrix, inverse: Floats, gradient: Floats) -> sp.csr_matrix:
    """What removing each event does to J, to first order in P: CSR with the cells of `matrix`.

    `gradient`: dJ/dB [items, items], its diagonal is not looked at. Only what B does to J counts, not that the user is
    scored without the event. Above 0: J grows without the event.
    """
    diagonal = inverse.diagonal()
    outer = np.array(gradient, np.float64)
    np.fill_diagonal(outer, 0)
    own = (outer * inverse).sum(0) / diagonal**2
    outer /= -diagonal
    np.fill_diagonal(outer, own)
    response = inverse @ outer @ inverse
    response = (response + response.T) / 2
    cells = matrix.tocoo()
    through = np.asarray(matrix @ response)[cells.row, cells.col]
    effect = 2 * cells.data * through - cells.data**2 * response.diagonal()[cells.col]
    return sp.csr_matrix((effect, (cells.row, cells.col)), shape=matrix.shape)


def worst_events(effects: sp.csr_matrix, share: float) -> sp.csr_matrix:
    """Which events to remove at once: those whose removal helps most, at most `share` of each user's and each item's.

    bool CSR [users, items]. Greedy from the largest effect; only effects above 0.
    """
    cells = effects.tocoo()
    room = {axis: np.floor(share * effects.getnnz(axis=1 - axis) + 1e-9) for axis in (0, 1)}
    chosen = []
    for place in np.argsort(-cells.data, kind="stable"):
        row, column = cells.row[place], cells.col[place]
        if cells.data[place] <= 0:
            break
        if room[0][row] >= 1 and room[1][column] >= 1:
            room[0][row] -= 1
            room[1][column] -= 1
            chosen.append(place)
    data = np.ones(len(chosen), np.bool_)
    return sp.csr_matrix((data, (cells.row[chosen], cells.col[chosen])), shape=effects.shape)
