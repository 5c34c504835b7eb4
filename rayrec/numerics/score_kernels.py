"""Compiled loops of `rayrec.numerics.user_scores`: each user's best allowed items, and scores of given pairs.

All `top_*` return the codes of all users one after another, int32 (a user's ascending, or in the given order), and the
number of each user's, [users]; all take `available` [items] and the ragged `excluded` items. A user's result is
computed from that user's arrays alone.
"""

from __future__ import annotations

import numpy as np

from rayrec.numerics.jit import jit
from rayrec.numerics.sparse_products import push


@jit
def top_of_order(order, available, excluded_ptr, excluded, count):  # type: ignore[no-untyped-def]
    """The first `count` allowed items of one order for all."""
    users = len(excluded_ptr) - 1
    mark = np.full(len(available), -1, np.int64)
    out, lengths, end = np.empty(users * min(count, len(order)), np.int32), np.zeros(users, np.int64), 0
    for user in range(users):
        for a in range(excluded_ptr[user], excluded_ptr[user + 1]):
            mark[excluded[a]] = user
        for item in order:
            if lengths[user] == count:
                break
            if available[item] and mark[item] != user:
                out[end] = item
                end += 1
                lengths[user] += 1
    return out[:end].copy(), lengths


@jit
def top_of_dense(scores, active, available, excluded_ptr, excluded, count):  # type: ignore[no-untyped-def]
    """The best of scores [users, active] above 0; `active`: the columns' item codes, ascending."""
    users = len(excluded_ptr) - 1
    count = min(count, len(active))
    mark = np.full(len(available), -1, np.int64)
    out, lengths, end = np.empty(users * count, np.int32), np.zeros(users, np.int64), 0
    heap_value, heap_item = np.empty(count + 1, np.float32), np.empty(count + 1, np.int32)
    for user in range(users):
        for a in range(excluded_ptr[user], excluded_ptr[user + 1]):
            mark[excluded[a]] = user
        held, bar = 0, np.float32(0)
        if count > 0:
            for slot in range(len(active)):
                value = scores[user, slot]
                if value > bar:  # items come in order of code, so a tie with the worst is never better
                    item = active[slot]
                    if available[item] and mark[item] != user:
                        held = push(heap_value, heap_item, held, count, value, item)
                        if held == count:
                            bar = heap_value[0]
        for item in np.sort(heap_item[:held]):
            out[end] = item
            end += 1
        lengths[user] = held
    return out[:end].copy(), lengths


@jit
def top_of_sparse(  # type: ignore[no-untyped-def]
    history_ptr, history, value_of, row_ptr, column, weight, available, excluded_ptr, excluded, count,
):  # fmt: skip
    """The best of history @ weights above 0; both in CSR."""
    users, items = len(excluded_ptr) - 1, len(available)
    count = min(count, items)
    mark, seen_by = np.full(items, -1, np.int64), np.full(items, -1, np.int64)
    total, touched = np.empty(items, np.float32), np.empty(items, np.int32)
    out, lengths, end = np.empty(users * count, np.int32), np.zeros(users, np.int64), 0
    heap_value, heap_item = np.empty(count + 1, np.float32), np.empty(count + 1, np.int32)
    for user in range(users):
        for a in range(excluded_ptr[user], excluded_ptr[user + 1]):
            mark[excluded[a]] = user
        found = 0
        for a in range(history_ptr[user], history_ptr[user + 1]):
            x, item = value_of[a], history[a]
            for b in range(row_ptr[item], row_ptr[item + 1]):
                other = column[b]
                if seen_by[other] != user:
                    seen_by[other] = user
                    total[other] = 0
                    touched[found] = other
                    found += 1
                total[other] += x * weight[b]
        held = 0
        for a in range(found):
            other = touched[a]
            value = total[other]
            if value > 0 and (held < count or value >= heap_value[0]) and available[other] and mark[other] != user:
                held = push(heap_value, heap_item, held, count, value, other)
        for item in np.sort(heap_item[:held]):
            out[end] = item
            end += 1
        lengths[user] = held
    return out[:end].copy(), lengths


@jit
def sparse_at(  # type: ignore[no-untyped-def]
    history_ptr, history, value_of, row_ptr, column, weight, items, candidate_ptr, candidate,
):  # fmt: skip
    """Scores [candidates] of history @ weights; a user's candidates are distinct."""
    users = len(candidate_ptr) - 1
    out, place = np.zeros(len(candidate), np.float32), np.full(items, -1, np.int64)
    for user in range(users):
        first, last = candidate_ptr[user], candidate_ptr[user + 1]
        if first == last:
            continue
        for a in range(first, last):
            place[candidate[a]] = a
        for a in range(history_ptr[user], history_ptr[user + 1]):
            x, item = value_of[a], history[a]
            for b in range(row_ptr[item], row_ptr[item + 1]):
                at = place[column[b]]
                if at >= 0:
                    out[at] += x * weight[b]
        for a in range(first, last):
            place[candidate[a]] = -1
    return out


@jit
def dense_at(history_ptr, history, value_of, weights, candidate_ptr, slot):  # type: ignore[no-untyped-def]
    """Scores [candidates] of history @ weights, both by slots; 0 where a candidate's slot is -1."""
    out = np.zeros(len(slot), np.float32)
    for user in range(len(candidate_ptr) - 1):
        for a in range(history_ptr[user], history_ptr[user + 1]):
            x, row = value_of[a], weights[history[a]]
            for b in range(candidate_ptr[user], candidate_ptr[user + 1]):
                if slot[b] >= 0:
                    out[b] += x * row[slot[b]]
    return out


@jit
def factors_at(vectors, vector_ptr, items, candidate_ptr, candidate):  # type: ignore[no-untyped-def]
    """The greatest product of a user's vectors with each candidate's; 0 for users without vectors."""
    out, width = np.zeros(len(candidate), np.float32), items.shape[1]
    for user in range(len(candidate_ptr) - 1):
        for a in range(candidate_ptr[user], candidate_ptr[user + 1]):
            greatest = np.float32(0)
            for number in range(vector_ptr[user], vector_ptr[user + 1]):
                value = np.float32(0)
                for k in range(width):
                    value += vectors[number, k] * items[candidate[a], k]
                if number == vector_ptr[user] or value > greatest:
                    greatest = value
            out[a] = greatest
    return out


@jit
def cells_of(row_ptr, column, weight, row, other):  # type: ignore[no-untyped-def]
    """The cells (row, other) [n] of a CSR matrix with sorted columns; 0 where it has none, or a row is -1."""
    out = np.zeros(len(row), np.float32)
    for n in range(len(row)):
        if row[n] < 0:
            continue
        low, high = row_ptr[row[n]], row_ptr[row[n] + 1]
        end = high
        while low < high:
            middle = (low + high) // 2
            if column[middle] < other[n]:
                low = middle + 1
            else:
                high = middle
        if low < end and column[low] == other[n]:
            out[n] = weight[low]
    return out
