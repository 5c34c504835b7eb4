"""The contest of denoising methods at an earlier cutoff, judged by what users consumed after it.

Each contestant denoises the histories as of the cutoff. The judge is EASE: refitted on the denoised histories
(`refit`), or fitted on all events (`inputs`); it ranks the most popular items for each user from the denoised history,
without what the user had. The measure is nDCG@10 of the new items consumed within the horizon, paired by user with
what the judge reaches on histories that nobody denoised. A user who is judged at several cutoffs counts once.

A contestant may win whose gain over `none` has an interval above 0, and that removes at most `max_tail_share` of the
tail's events; of several the largest gain wins. The intervals of all contestants hold together (Dunnett), so the choice
is worse than `none` only by chance, in at most 2.5% of runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from rayrec.data.cutoff_histories import consumed_after, histories_at, is_training_user
from rayrec.denoising.auto import NONE, AutoSettings, Contestant
from rayrec.denoising.denoiser import Denoiser, Histories, histories_of
from rayrec.evaluation.significance import simultaneous_factor, standard_error
from rayrec.numerics.hashing import hash_strings
from rayrec.numerics.popularity_bands import TAIL as TAIL_BAND
from rayrec.numerics.popularity_bands import popularity_bands
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Float32s, Float64s, Int64s
from rayrec.retrieval.ease import regularised_inverse, weights_of
from rayrec.retrieval.fit_data import gram_matrix
from rayrec.retrieval.user_histories import clipped_matrix

DENOISING_CONTEST = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),  # the candidate and its budget
        pa.field("users", pa.int64(), nullable=False),
        pa.field("ndcg", pa.float64(), nullable=False),  # nDCG@10 with this contestant, the judge of the contest
        pa.field("gain", pa.float64(), nullable=False),  # over none, absolute
        pa.field("low", pa.float64(), nullable=False),  # of its interval, corrected for the number of contestants
        pa.field("high", pa.float64(), nullable=False),
        pa.field("other_gain", pa.float64(), nullable=False),  # by the other judge (`refit` or `inputs`)
        pa.field("removed_share", pa.float64(), nullable=False),  # of the positive events
        pa.field("tail_share", pa.float64(), nullable=False),  # removed of the tail's events
        pa.field("verdict", pa.string(), nullable=False),
    ]
)
ARM_CONTEST = DENOISING_CONTEST.append(pa.field("arms", pa.string(), nullable=False))
"""Rows of several contests, with the arms that each is for."""
WINS, NO_GAIN, TAIL, BEATEN, FEW = (
    "chosen",
    "no gain beyond noise",
    "removes too much of the tail",
    "a gain, but not the largest",
    "too few users to tell",
)
_TOP, _BLOCK, _MIN_EVENTS = 10, 512, 3
_JUDGES = ("refit", "inputs")


@dataclass(frozen=True)
class CutoffScores:
    """What was measured at one cutoff. Columns: none, then the contestants in order."""

    user: npt.NDArray[np.uint64]  # [users] stable hashes, each once
    refit: Float64s  # [users, 1 + contestants] nDCG@10
    inputs: Float64s
    removed: Int64s  # [2, 1 + contestants] removed events: of all items, of the tail
    events: Int64s  # [2] positive events: of all items, of the tail

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return dict(vars(self))

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        return cls(*(arrays[name] for name in ("user", "refit", "inputs", "removed", "events")))


@dataclass(frozen=True)
class Contest:
    """The outcome: the index of the contestant that won, or NONE; and DENOISING_CONTEST, `none` first."""

    choice: int
    table: pa.Table
    cutoffs: int  # how many earlier cutoffs it was decided at


def score_cutoff(
    table: pa.Table,
    cutoff: int,
    until: int,
    denoisers: Sequence[Denoiser],
    event_weights: Sequence[float],
    items: int,
    settings: AutoSettings,
    regularization: float,
    *,
    new_only: bool = True,
) -> CutoffScores:
    """Judge the denoisers on HISTORY rows of whole users, with what they consumed in [cutoff, until).

    `items`: size of the catalogue; `regularization`: EASE's. The result does not depend on the order of the rows.
    """
    table = table.take(pa.array(np.argsort(hash_strings(table["user_id"]), kind="stable")))
    wanted = consumed_after(table, cutoff, until, event_weights, new_only=new_only)
    known = histories_at(table, cutoff)
    whole = histories_of(known, event_weights)
    positive = whole.weight.values > 0
    count = np.bincount(whole.item.values[positive], minlength=items)
    judged = np.flatnonzero(is_training_user(known, wanted, _MIN_EVENTS))[: settings.max_users]
    judge = _Judge.of(whole, known, wanted, judged, count, settings.max_items, regularization, new_only=new_only)
    tail = popularity_bands(count)[whole.item.values] == TAIL_BAND
    columns, removed = [judge.scores(np.ones(len(positive), np.float32))], [[0, 0]]
    for denoiser in denoisers:
        decision = denoiser.decide(whole)
        columns.append(judge.scores(decision.keep_weight))
        out = positive & (decision.reason > 0)
        removed.append([int(out.sum()), int((out & tail).sum())])
    refit, inputs = (np.stack([pair[number] for pair in columns], axis=1) for number in (0, 1))
    events = np.array([int(positive.sum()), int((positive & tail).sum())])
    user = hash_strings(table["user_id"])[judged]
    return CutoffScores(user, refit, inputs, np.array(removed).T, events)


def decide(measured: Sequence[CutoffScores], tried: Sequence[Contestant], settings: AutoSettings) -> Contest:
    """Choose among the contestants by what was measured at all cutoffs together."""
    users, chosen, other = _by_user(measured, len(tried), settings.judge)
    removed, events = (sum(getattr(one, name) for one in measured) for name in ("removed", "events"))
    rows = [_row("none", users, chosen[:, :1], 0.0, (0.0, 0.0), 0.0, (0.0, 0.0), "")]
    all_gains = chosen[:, 1:] - chosen[:, :1]
    factor = simultaneous_factor(all_gains)
    for number, (one, gains) in enumerate(zip(tried, all_gains.T, strict=True), 1):
        mean = float(gains.mean()) if users else 0.0
        error = factor * standard_error(gains)
        interval = (mean - error, mean + error)
        shares = tuple(float(removed[k][number]) / max(int(events[k]), 1) for k in (0, 1)) if measured else (0.0, 0.0)
        verdict = NO_GAIN if interval[0] <= 0 else TAIL if shares[1] > settings.max_tail_share else BEATEN
        if users < settings.min_users:
            verdict = FEW
        by_other = float((other[:, number] - other[:, 0]).mean()) if users else 0.0
        rows.append(_row(one.name, users, chosen[:, number], mean, interval, by_other, shares, verdict))
    winners = [row for row in rows if row["verdict"] == BEATEN]
    best = max(winners, key=lambda row: row["gain"]) if winners else rows[0]
    best["verdict"] = WINS
    table = pa.Table.from_pylist(rows, DENOISING_CONTEST)
    return Contest(rows.index(best) - 1 if winners else NONE, table, len(measured))


def _by_user(measured: Sequence[CutoffScores], tried: int, judge: str) -> tuple[int, Float64s, Float64s]:
    """Distinct users, and their mean nDCG over the cutoffs by this judge and by the other, [users, 1 + tried] each."""
    other = next(name for name in _JUDGES if name != judge)
    if not measured:
        return 0, np.zeros((0, 1 + tried)), np.zeros((0, 1 + tried))
    distinct, place = np.unique(np.concatenate([one.user for one in measured]), return_inverse=True)
    times = np.bincount(place, minlength=len(distinct))[:, None]
    found = []
    for name in (judge, other):
        values = np.concatenate([getattr(one, name) for one in measured])
        total = np.zeros((len(distinct), 1 + tried))
        np.add.at(total, place, values)
        found.append(total / np.maximum(times, 1))
    return len(distinct), found[0], found[1]


def _row(
    name: str,
    users: int,
    ndcg: Float64s,
    gain: float,
    interval: tuple[float, float],
    other: float,
    shares: tuple[float, ...],
    verdict: str,
) -> dict[str, Any]:
    values = (name, users, float(ndcg.mean()) if users else 0.0, gain, *interval, other, *shares, verdict)
    return dict(zip(DENOISING_CONTEST.names, values, strict=True))


@dataclass(frozen=True)
class _Judge:
    """EASE over the most popular items, and the judged users' labels, in the judge's own item codes."""

    item: Ragged  # of the events that count: positive, of these items
    weight: Float32s
    used: Bools  # [events of the histories] whether the event counts
    items: int
    judged: Int64s  # rows
    seen: sp.csr_matrix  # bool [judged, items]
    wanted: sp.csr_matrix  # bool [judged, items]
    ideal: Float64s  # [judged] the best possible DCG, items that are not ranked included
    regularization: float
    whole: Float32s  # the weights fitted on all events

    @classmethod
    def of(
        cls,
        whole: Histories,
        known: pa.Table,
        wanted: Ragged,
        judged: Int64s,
        count: Int64s,
        max_items: int,
        regularization: float,
        *,
        new_only: bool,
    ) -> Self:
        ranked = np.sort(np.argsort(-count, kind="stable")[: min(max_items, int(np.count_nonzero(count)))])
        code = np.full(len(count), -1, np.int64)
        code[ranked] = np.arange(len(ranked))
        used = (whole.weight.values > 0) & (code[whole.item.values] >= 0)
        own = whole.item.filter(used)
        item = own.like(code[own.values].astype(np.int32))
        weight = whole.weight.values[used]
        had = whole.item.joined(Ragged.from_arrow(known["older_items"]))
        excluded = had if new_only else had.filter(np.zeros(len(had.values), np.bool_))
        gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, 2 + _TOP)))])
        return cls(
            item,
            weight,
            used,
            len(ranked),
            judged,
            _indicator(excluded, code, judged, len(ranked)),
            _indicator(wanted, code, judged, len(ranked)),
            gains[np.minimum(wanted.lengths[judged], _TOP)],
            regularization,
            _ease(clipped_matrix(weight, item.values, item.offsets, len(ranked)), regularization),
        )

    def scores(self, keep_weight: Float32s) -> tuple[Float64s, Float64s]:
        """nDCG@10 of each judged user, [judged] twice: refitted on the kept events, and with these as inputs only."""
        keep = keep_weight[self.used]
        kept = keep > 0
        item = self.item.filter(kept)
        matrix = clipped_matrix(self.weight[kept] * keep[kept], item.values, item.offsets, self.items)
        own = matrix[self.judged]
        inputs = self._ndcg(own, self.whole)
        if (keep == 1).all():
            return inputs, inputs
        return self._ndcg(own, _ease(matrix, self.regularization)), inputs

    def _ndcg(self, own: sp.csr_matrix, weights: Float32s) -> Float64s:
        gain = 1 / np.log2(np.arange(2, 2 + _TOP))
        found = np.zeros(len(self.judged))
        for start in range(0, len(found), _BLOCK):
            rows = slice(start, start + _BLOCK)
            score = np.asarray(own[rows] @ weights)
            score[self.seen[rows].nonzero()] = -np.inf
            top = np.argsort(-score, axis=1, kind="stable")[:, :_TOP]
            hit = np.take_along_axis(self.wanted[rows].toarray(), top, axis=1)
            found[rows] = hit @ gain[: top.shape[1]]
        return np.asarray(found / self.ideal, np.float64)


def _ease(matrix: sp.csr_matrix, regularization: float) -> Float32s:
    with threadpool_limits(1):  # the same bits for any number of threads
        return weights_of(regularised_inverse(gram_matrix(matrix), regularization))


def _indicator(rows: Ragged, code: Int64s, judged: Int64s, items: int) -> sp.csr_matrix:
    """Bool [judged, items]: the items of these rows, in the judge's codes."""
    own = rows.take(judged)
    column = code[own.values]
    there = column >= 0
    cells = (np.ones(int(there.sum()), np.bool_), (own.rows[there], column[there]))
    return sp.csr_matrix(cells, shape=(len(judged), items))
