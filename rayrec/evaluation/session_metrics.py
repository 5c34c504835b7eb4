"""Session-level metric: normalized U-measure (NUM; Chen, Dou & Mao 2023, arXiv 2401.12445).

A session is what one user was shown in turn: here his slates of several dates. NUM judges it as a whole. The user reads
the slates one after another, from the top down; a relevant item is worth D = max(0, 1 - read / L) after so many other
items (U-measure, Sakai & Dou 2013). The sum is divided by that of the ideal session, which shows all relevant items
first (the paper's first assumption). So a system that shows an item on the first date is better than one that needs
three, which a mean over dates does not see. An item that is consumed late in the session was relevant already when it
was first shown (the second assumption), and counts there, once.

Taken over are the normalization and both assumptions. Not taken: lengths of texts (an item is one unit of reading) and
the time of reformulating a query. L is the whole session, 10 items a slate.
"""

from __future__ import annotations

import numpy as np

from rayrec.numerics.types import Float64s, Int64s

NUM = "num@10"


def normalized_u_measure(
    user: Int64s, when: Int64s, top: Int64s, relevant_user: Int64s, relevant_item: Int64s, users: int
) -> Float64s:
    """NUM of each user, [users]; NaN without a slate or a relevant item.

    Slates [n]: `user`, `when` (their order) and `top` [n, ranks] item codes, −1 for an empty rank. Pairs
    `relevant_user`, `relevant_item` [m] may repeat.
    """
    order = np.lexsort((when, user))
    user, top = user[order], top[order]
    slates, ranks = np.bincount(user, minlength=users), top.shape[1]
    turn = np.arange(len(user)) - (np.cumsum(slates) - slates)[user]
    width = 1 + max(int(top.max(initial=0)), int(relevant_item.max(initial=0)))
    wanted = np.unique(relevant_user * width + relevant_item)
    key = (user[:, None] * width + top).ravel()
    read = (turn[:, None] * ranks + np.arange(ranks)).ravel()
    shown = np.flatnonzero((top.ravel() >= 0) & np.isin(key, wanted))
    _, first = np.unique(key[shown], return_index=True)  # a user's slates are in order: the first showing
    first = shown[first]
    length = np.maximum(slates * ranks, 1)
    owner = np.repeat(user, ranks)[first]
    gain = np.bincount(owner, np.maximum(0.0, 1 - read[first] / length[owner]), minlength=users)
    many = np.minimum(np.bincount(wanted // width, minlength=users)[:users], length).astype(np.float64)
    ideal = many - many * (many - 1) / (2 * length)  # the sum of 1 - read / length over the first `many`
    found: Float64s = np.divide(gain, ideal, out=np.full(users, np.nan), where=(ideal > 0) & (slates > 0))
    return found
