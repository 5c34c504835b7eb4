"""Candidates from DENOISED_HISTORY: the union of the items that the sources propose, scored by every source.

Retrievers use retained events of positive weight only; for `exclude_seen` every event of the window counts, removed or
not, also those beyond `history_limit`. Users are processed in blocks, so that what the sources hold for a block stays
below 64 MB. No source gives a row over all items, so a user costs what the models know of the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.data.schemas import candidate_schema
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import padded_rows, ranks
from rayrec.numerics.user_scores import AllowedItems
from rayrec.retrieval.retriever import Retriever
from rayrec.retrieval.user_histories import UserHistories

_BLOCK_BYTES = 64 << 20
_BLOCK_USERS = 4096


@dataclass(frozen=True)
class Source:
    """A loaded retriever with its name in the config and its number of candidates."""

    name: str
    top: int
    retriever: Retriever


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
        seen = self._seen(table, item)
        step = max(1, min(_BLOCK_USERS, _BLOCK_BYTES // max(1, sum(s.retriever.bytes_per_user for s in self.sources))))
        blocks = []
        for start in range(0, len(table), step):
            rows = np.arange(start, min(start + step, len(table)))
            more = None if also is None else also.take(rows)
            allowed = AllowedItems(self.available, seen.take(rows))
            blocks.append(self._propose(user_histories[slice(start, start + step)], allowed, more))
        return self._table(table, user_histories, blocks)

    def _seen(self, table: pa.Table, item: Ragged) -> Ragged:
        """Items that must not be proposed, may repeat."""
        if not self.exclude_seen:
            return Ragged(np.zeros(0, np.int32), np.zeros(len(item) + 1, np.int64))
        return item.joined(Ragged.from_arrow(table["older_items"]))

    def _propose(self, user_histories: UserHistories, allowed: AllowedItems, also: Ragged | None) -> _Proposed:
        scores = [source.retriever.user_scores(user_histories) for source in self.sources]
        proposals = [
            each.top(allowed, source.top) for each, source in zip(scores, self.sources, strict=True) if source.top
        ]
        if also is not None:
            proposals.append(_allowed(also, allowed))
        items = len(self.available)
        cells = np.sort(np.concatenate([found.rows * items + found.values for found in proposals]))
        row, code = np.divmod(cells[np.diff(cells, prepend=-1) > 0], items)  # np.unique hashes: ten times as long
        candidate = Ragged.from_lengths(code.astype(np.int32), np.bincount(row, minlength=len(user_histories)))
        return _Proposed(candidate, [each.at(candidate) for each in scores])

    def _table(self, table: pa.Table, user_histories: UserHistories, blocks: Sequence[_Proposed]) -> pa.Table:
        names = tuple(source.name for source in self.sources)
        lengths = _joined([block.candidate.lengths for block in blocks], np.int64)
        candidate = Ragged.from_lengths(_joined([block.candidate.values for block in blocks], np.int32), lengths)
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
    candidate: Ragged  # int32 codes, ascending
    scores: list[npt.NDArray[np.float32]]  # one array per source, [candidates]


def _allowed(also: Ragged, allowed: AllowedItems) -> Ragged:
    """Those of the items that may be proposed."""
    items, seen = len(allowed.available), allowed.excluded
    new = ~np.isin(also.rows * items + also.values, seen.rows * items + seen.values)
    return also.filter(new & allowed.available[also.values])


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
