"""Noise planted into histories, and its removal by leave-one-event-out, instruction by instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.embed_probe import auc
from rayrec.data.schemas import HISTORY
from rayrec.embeddings import Embedder, Events, leave_one_out, most_influential
from rayrec.embeddings.source_views import ViewBuilder
from rayrec.numerics.ragged import Ragged

_COLUMNS = ("item", "ts", "event", "value", "dwell_ms")
_SMALLEST, _LARGEST = 6, 60  # events of users that are denoised: one embedding an event


@dataclass(frozen=True)
class Denoising:
    """Means over instructions. Cosines are with the vector of the user's clean events, by the same model."""

    users: int
    auc_agreement: float  # of planted against own events, by least agreement
    auc_influence: float  # by most influence
    noisy: float  # cosine with the noise in
    least_aligned: float  # without the events that disagree
    most_influential: float  # without as large a share, of greatest influence
    random: float  # without as large a share, at random


def with_noise(
    table: pa.Table, now: int, share: float, event_weights: Sequence[float], seed: int
) -> tuple[pa.Table, pa.Table]:
    """HISTORY with `share` of each user's events before `now` added: items by popularity, times in the user's own span.

    Also the same rows with 1 for planted events and 0 for others instead of items.
    """
    columns = {name: Ragged.from_arrow(table[name]) for name in _COLUMNS}
    item, ts = columns["item"], columns["ts"].values
    positive = np.asarray(event_weights)[columns["event"].values] > 0
    past = np.flatnonzero((ts < now) & positive)
    rng = np.random.default_rng([seed, int(1000 * share)])
    extra = rng.choice(past, size=rng.binomial(len(past), share) if share else 0)  # whose rows get one more
    donors = rng.choice(past, size=len(extra))  # items as popular as they are
    rows = item.rows[extra]
    first, last = np.full(len(item), np.iinfo(np.int64).max), np.zeros(len(item), np.int64)
    np.minimum.at(first, item.rows[past], ts[past])
    np.maximum.at(last, item.rows[past], ts[past])
    added = {name: columns[name].values[donors] for name in _COLUMNS}
    added["ts"] = rng.integers(first[rows], last[rows] + 1)
    flat = {name: np.concatenate([columns[name].values, added[name]]) for name in _COLUMNS}
    user = np.concatenate([item.rows, rows])
    order = np.lexsort((np.arange(len(user)), flat["ts"], user))
    lengths = np.bincount(user, minlength=len(item))
    planted = np.concatenate([np.zeros(len(ts), np.int32), np.ones(len(rows), np.int32)])

    def built(items: npt.NDArray[np.int32]) -> pa.Table:
        lists = [
            Ragged.from_lengths((items if name == "item" else flat[name])[order], lengths).to_arrow(
                HISTORY.field(name).type.value_type
            )
            for name in _COLUMNS
        ]
        columns = [table["user_id"].combine_chunks(), *lists, table["older_items"].combine_chunks()]
        return pa.table(columns, schema=HISTORY)

    return built(flat["item"]), built(planted)


def denoising(
    embedder: Embedder,
    view_builder: ViewBuilder,
    noisy: Events,
    clean: Events,
    planted: npt.NDArray[np.bool_],
    texts: Sequence[str],
    share: float,
    most_users: int,
    seed: int,
) -> Denoising:
    """`planted` [events of noisy]; `noisy` and `clean` have the same users; at most `most_users` are evaluated."""
    rng = np.random.default_rng(seed)
    fit = np.flatnonzero((noisy.lengths >= _SMALLEST) & (noisy.lengths <= _LARGEST) & (clean.lengths > 0))
    users = np.sort(rng.permutation(fit)[:most_users])
    marks = replace(noisy, item=planted.astype(np.int32)).take(users).item > 0
    noisy, clean = noisy.take(users), clean.take(users)
    found = leave_one_out(embedder, view_builder, noisy, texts)
    wanted = embedder.embed(view_builder(clean), texts)
    with_all = embedder.embed(view_builder(noisy), texts)
    rows = []
    for k, text in enumerate(texts):
        removed_share = share / (1 + share)
        masks = (
            most_influential(noisy, -found.alignment[k], removed_share),
            most_influential(noisy, found.influence[k], removed_share),
            most_influential(noisy, rng.uniform(0.1, 1, len(marks)), removed_share),
        )
        after = [embedder.embed(view_builder(noisy.filter(~mask)), [text])[0] for mask in masks]
        rows.append(
            (
                auc(marks.astype(float), -found.alignment[k].astype(float)),
                auc(marks.astype(float), found.influence[k].astype(float)),
                *((vectors * wanted[k]).sum(1).mean() for vectors in (with_all[k], *after)),
            )
        )
    return Denoising(len(users), *(float(value) for value in np.mean(rows, axis=0)))
