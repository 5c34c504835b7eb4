"""Candidates from DENOISED_HISTORY: the union of the items that the sources propose, scored by every source.

Retrievers use retained events of positive weight only; for `exclude_seen` every event counts, removed or not. Users are
processed in blocks, so that the dense scores of a block stay below 64 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from rayrec.data.schemas import candidate_schema
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import padded_rows, ranks
from rayrec.retrieval.retriever import Retriever
from rayrec.retrieval.user_histories import UserHistories

_BLOCK_BYTES = 64 << 20
_NO_OPINION = np.float32(0)


@dataclass(frozen=True)
class Source:
    """A loaded retriever with its name in the config and its number of candidates."""

    name: str
    top: int
    retriever: Retriever


@dataclass(frozen=True)
class _Block:
    """Some users' histories, and the items that must not be proposed to them."""

    user_histories: UserHistories
    seen_row: npt.NDArray[np.int64]  # [seen], with seen_item: the distinct (user, item) cells of the histories, by row
    seen_item: npt.NDArray[np.int64]
    also: Ragged | None  # additional item codes to propose


@dataclass(frozen=True)
class CandidateStage:
    """DENOISED_HISTORY to candidates (candidate_schema): same users in the same order."""

    variant: str
    sources: tuple[Source, ...]
    available: npt.NDArray[np.bool_]  # [items]
    exclude_seen: bool
    event_weights: tuple[float, ...]

    def __call__(self, table: pa.Table, also: Ragged | None = None) -> pa.Table:
        """`also`: additional item codes to propose, one row per user; seen and unavailable items are dropped."""
        item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"])
        keep = Ragged.from_arrow(table["keep_weight"]).values
        weight = np.asarray(self.event_weights, np.float32)[Ragged.from_arrow(table["event"]).values]
        retained = (weight > 0) & (keep > 0)
        positive = item.filter(retained)
        user_histories = UserHistories(
            positive, positive.like(ts.values[retained]), positive.like((weight * keep)[retained]), len(self.available)
        )
        step = max(1, _BLOCK_BYTES // (4 * max(1, len(self.available)) * (1 + len(self._personal))))
        blocks = [
            self._propose(
                _Block(
                    user_histories[slice(start, start + step)],
                    *self._seen(item, start, start + step),
                    None if also is None else also.take(np.arange(start, min(start + step, len(table)))),
                )
            )
            for start in range(0, len(table), step)
        ]
        return self._table(table, user_histories, blocks)

    @cached_property
    def _personal(self) -> tuple[Source, ...]:
        return tuple(source for source in self.sources if source.retriever.personalized)

    @cached_property
    def _shared(self) -> dict[str, npt.NDArray[np.float32]]:
        """Item scores [items] of the non-personalized sources."""
        nobody = Ragged(np.zeros(0, np.int32), np.zeros(1, np.int64))
        user_histories = UserHistories(nobody, nobody, nobody, len(self.available))
        return {s.name: s.retriever.scores(user_histories)[0] for s in self.sources if not s.retriever.personalized}

    @cached_property
    def _shared_order(self) -> dict[str, npt.NDArray[np.int64]]:
        """Available items by these scores, best first, ties by code."""
        codes = np.flatnonzero(self.available)
        return {name: codes[np.argsort(-score[codes], kind="stable")] for name, score in self._shared.items()}

    def _seen(self, item: Ragged, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        if not self.exclude_seen:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        offsets = item.offsets[start : stop + 1]
        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        cells = np.sort(rows * len(self.available) + item.values[offsets[0] : offsets[-1]])
        row, code = np.divmod(cells[np.diff(cells, prepend=-1) > 0], len(self.available))
        return row, code

    def _propose(self, block: _Block) -> _Proposed:
        users, items = len(block.user_histories), len(self.available)
        proposed = np.zeros((users, items), np.bool_)
        dense = {}
        for source in self._personal:
            dense[source.name] = source.retriever.scores(block.user_histories)
            if source.top:
                propose_personal(
                    dense[source.name], block.seen_row, block.seen_item, self.available, source.top, proposed
                )
        for source in self.sources:
            if not source.retriever.personalized and source.top:
                propose_shared(self._shared_order[source.name], block.seen_row, block.seen_item, source.top, proposed)
        if block.also is not None:
            proposed[block.also.rows, block.also.values] = True
            proposed &= self.available
        proposed[block.seen_row, block.seen_item] = False
        cells = np.flatnonzero(proposed)
        row, code = np.divmod(cells, items)
        offsets = np.searchsorted(row, np.arange(users + 1))
        flat = [
            dense[source.name].ravel()[cells] if source.retriever.personalized else self._shared[source.name][code]
            for source in self.sources
        ]
        return _Proposed(code.astype(np.int32), np.diff(offsets), flat)

    def _table(self, table: pa.Table, user_histories: UserHistories, blocks: Sequence[_Proposed]) -> pa.Table:
        names = tuple(source.name for source in self.sources)
        lengths = _joined([block.lengths for block in blocks], np.int64)
        candidate = Ragged.from_lengths(_joined([block.code for block in blocks], np.int32), lengths)
        scores = [
            candidate.like(_joined([block.scores[number] for block in blocks], np.float32))
            for number in range(len(names))
        ]
        personalized = [source.retriever.personalized for source in self.sources]
        columns = [
            table["user_id"].combine_chunks(),
            pa.repeat(pa.scalar(self.variant), len(table)),
            user_histories.item.to_arrow(pa.int32()),
            user_histories.ts.to_arrow(pa.int64()),
            candidate.to_arrow(pa.int32()),
            candidate.like(best_ranking_source(scores, personalized)).to_arrow(pa.int8()),
            *(score.to_arrow(pa.float32()) for score in scores),
        ]
        return pa.table(columns, schema=candidate_schema(names))


@dataclass(frozen=True)
class _Proposed:
    code: npt.NDArray[np.int32]  # [candidates], by user, then by code
    lengths: npt.NDArray[np.int64]  # [users]
    scores: list[npt.NDArray[np.float32]]  # one array per source, [candidates]


def propose_personal(
    scores: npt.NDArray[np.float32],
    seen_row: npt.NDArray[np.int64],
    seen_item: npt.NDArray[np.int64],
    available: npt.NDArray[np.bool_],
    top: int,
    proposed: npt.NDArray[np.bool_],
) -> None:
    """Mark in `proposed` [users, items] each user's `top` best allowed items that score above 0, ties by code.

    `scores` [users, items] is overwritten: seen and unavailable items become -inf.
    """
    scores[seen_row, seen_item] = -np.inf
    scores[:, ~available] = -np.inf
    top = min(top, scores.shape[1])
    if not top or not len(scores):
        return
    bar = torch.topk(torch.from_numpy(scores), top, dim=1, sorted=False).values.amin(1).numpy()[:, None]
    smallest = np.nextafter(_NO_OPINION, np.float32(1))
    chosen = scores >= np.maximum(bar, smallest)
    over = np.flatnonzero(np.count_nonzero(chosen, axis=1) > top)
    if len(over):
        tied = scores[over] == bar[over]
        room = top - np.count_nonzero(scores[over] > bar[over], axis=1)
        chosen[over] &= ~tied | (np.cumsum(tied, axis=1) <= room[:, None])
    proposed |= chosen


def propose_shared(
    order: npt.NDArray[np.int64],
    seen_row: npt.NDArray[np.int64],
    seen_item: npt.NDArray[np.int64],
    top: int,
    proposed: npt.NDArray[np.bool_],
) -> None:
    """Mark in `proposed` [users, items] the first `top` items of `order` [available items] that each user has not seen.

    A user's seen items at ranks s_0 < s_1 < ... push the end of the list down by one while s_j - j < top. Users who
    have seen none of the first items cost nothing.
    """
    items = proposed.shape[1]
    place = np.full(items, items, np.int64)
    place[order] = np.arange(len(order))
    row, rank = np.divmod(np.sort(seen_row * (items + 1) + place[seen_item]), items + 1)
    before = np.arange(len(row)) - np.searchsorted(row, row, side="left")
    extra = np.bincount(row[rank - before < top], minlength=len(proposed))
    proposed[:, order[:top]] = True
    further = order[top : top + int(extra.max(initial=0))]
    proposed[:, further] |= np.arange(len(further)) < extra[:, None]


def best_ranking_source(scores: Sequence[Ragged], personalized: Sequence[bool]) -> npt.NDArray[np.int8]:
    """The source, [candidates], in which each candidate ranks highest; the first in the config on ties.

    A personalized score of 0 or below is not a proposal and ranks last.
    """
    result = np.zeros(len(scores[0].values), np.int8)
    for block in padded_rows(scores[0].offsets):
        best = np.full(block.mask.shape, np.iinfo(np.int32).max, np.int32)
        who = np.zeros(block.mask.shape, np.int8)
        for number, (score, own) in enumerate(zip(scores, personalized, strict=True)):
            values = score.values[block.take]
            rank = ranks(values, block.mask)
            if own:
                rank = np.where(values > 0, rank, np.iinfo(np.int32).max - 1)
            who = np.where(rank < best, np.int8(number), who)
            best = np.minimum(rank, best)
        result[block.take[block.mask]] = who[block.mask]
    return result


def _joined(parts: Sequence[npt.NDArray[np.generic]], dtype: type) -> npt.NDArray[np.generic]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
