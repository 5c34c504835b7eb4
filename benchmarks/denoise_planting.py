"""Planting of noise into histories. A planted event differs from the user's own only in its item.

    uniform      any item with events
    popularity   items in proportion to their popularity, so that popularity alone detects nothing
    taste-swap   events copied from a user of another taste, as when an account is shared

A planted event follows a random event of the user's own, at a random time before the next one (or before the user's
cutoff), and copies that event's kind, value and dwell time. No user gets an item that is in the history or held out,
and none twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from rayrec.numerics.ragged import Ragged

KINDS = ("uniform", "popularity", "taste-swap")
_ROUNDS = 200  # of drawing again what a user has already; who still lacks some then has nearly everything
_DONORS = 16  # users searched for one of another taste
_TASTES = 16  # dimensions

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Clean:
    """What noise is planted into; ragged members hold a row a user."""

    item: Ragged  # int32 codes of every event
    positive: Bools  # [events]
    wanted: Ragged  # int32 codes held out
    items: int  # size of the catalogue

    @property
    def counts(self) -> Int:
        """Positive events of each item, [items]."""
        return np.bincount(self.item.values[self.positive], minlength=self.items)

    @property
    def forbidden(self) -> Int:
        """row x items + code of what no user may get, sorted."""
        own = self.item.rows * self.items + self.item.values
        return np.unique(np.concatenate([own, self.wanted.rows * self.items + self.wanted.values]))


def planted_items(clean: Clean, kind: str, share: float, rng: np.random.Generator) -> Ragged:
    """Item codes int32, a row a user, such that in expectation `share` of the positive events will be noise."""
    positives = np.bincount(clean.item.rows[clean.positive], minlength=len(clean.item))
    number = np.floor(positives * share / (1 - share) + rng.random(len(positives))).astype(np.int64)
    if kind == "taste-swap":
        return swapped(clean, tastes(clean), number, rng)
    weight = clean.counts if kind == "popularity" else clean.counts > 0
    return drawn(clean, weight / weight.sum(), number, rng)


def drawn(clean: Clean, chance: Floats, number: Int, rng: np.random.Generator) -> Ragged:
    """`number` [users] items a user by `chance` [items], each once."""
    excluded, found = clean.forbidden, np.empty(0, np.int64)
    pending = np.repeat(np.arange(len(number)), number)
    for _ in range(_ROUNDS):
        if not len(pending):
            break
        cell = pending * clean.items + rng.choice(clean.items, len(pending), p=chance)
        first = np.zeros(len(cell), np.bool_)
        first[np.unique(cell, return_index=True)[1]] = True
        good = first & ~np.isin(cell, excluded) & ~np.isin(cell, found)
        found = np.concatenate([found, cell[good]])
        pending = pending[~good]
    row, code = np.divmod(found, clean.items)
    order = np.argsort(row, kind="stable")
    return Ragged.from_lengths(code[order].astype(np.int32), np.bincount(row, minlength=len(number)))


def tastes(clean: Clean) -> Floats:
    """Unit vectors [users, d]: the histories' items by inverse popularity, reduced by SVD."""
    row, code = clean.item.rows[clean.positive], clean.item.values[clean.positive]
    idf = np.log(len(clean.item) / np.maximum(clean.counts, 1)) + 1
    matrix = sp.csr_matrix((idf[code], (row, code)), shape=(len(clean.item), clean.items))
    u, s, _ = svds(matrix, k=min(_TASTES, min(matrix.shape) - 1), v0=np.ones(min(matrix.shape)))
    vectors = u * s
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def swapped(clean: Clean, taste: Floats, number: Int, rng: np.random.Generator) -> Ragged:
    """`number` [users] items from the least similar of a few other users, the next one's where they do not suffice."""
    own = clean.item.filter(clean.positive)
    excluded, out = clean.forbidden, []
    edges = np.searchsorted(excluded, np.arange(len(number) + 1) * clean.items)
    for user, wanted in enumerate(number):
        others = rng.integers(len(number), size=_DONORS)
        donors = others[others != user]
        donors = donors[np.argsort(taste[donors] @ taste[user], kind="stable")]
        offered = np.concatenate([own.values[:0], *(rng.permutation(own[donor]) for donor in donors)])
        offered = offered[np.sort(np.unique(offered, return_index=True)[1])]
        mine = excluded[edges[user] : edges[user + 1]] - user * clean.items
        out.append(offered[~np.isin(offered, mine)][:wanted])
    values = np.concatenate(out) if out else own.values[:0]
    return Ragged.from_lengths(values.astype(np.int32), [len(part) for part in out])


def insert(
    history: pa.Table, positive: Bools, user_cutoffs: Int, noise: Ragged, rng: np.random.Generator
) -> tuple[pa.Table, Bools]:
    """HISTORY with the noise in its place, and which events are noise. `user_cutoffs`: [users]."""
    item, ts = Ragged.from_arrow(history["item"]), Ragged.from_arrow(history["ts"]).values
    anchors = item.like(np.arange(len(ts))).filter(positive)
    rows = noise.rows
    after = anchors.values[anchors.offsets[rows] + (rng.random(len(rows)) * anchors.lengths[rows]).astype(np.int64)]
    following = np.append(ts[1:], 0)
    following[item.offsets[1:][item.lengths > 0] - 1] = user_cutoffs[item.lengths > 0] - 1
    span = np.maximum(following[after] - ts[after], 0)
    at = ts[after] + (rng.random(len(rows)) * (span + 1)).astype(np.int64)
    source = np.concatenate([np.arange(len(ts)), after])
    is_noise = np.arange(len(source)) >= len(ts)
    when = np.concatenate([ts, at])
    row = item.rows[source]
    tie = np.where(is_noise, rng.random(len(source)), 0.0)
    order = np.lexsort((tie, when, source, row))
    lengths = item.lengths + noise.lengths
    columns = [history["user_id"].combine_chunks()]
    for field in list(history.schema)[1:]:
        if field.name == "older_items":
            columns.append(history[field.name].combine_chunks())
            continue
        own = Ragged.from_arrow(history[field.name]).values[source]
        if field.name == "item":
            own[is_noise] = noise.values
        elif field.name == "ts":
            own = when
        columns.append(Ragged.from_lengths(own[order], lengths).to_arrow(field.type.value_type))
    return pa.table(columns, schema=history.schema), is_noise[order]
