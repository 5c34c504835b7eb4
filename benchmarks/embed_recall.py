"""Retrieval: what several interests a user add to EASE, and to the night's own sources, as candidates.

Known is everything before the date; wanted are the new items that users with at least 3 events took within the horizon
after it. Every row proposes 100 items a user: of several sources, those that are best by reciprocal rank fusion, with
its authors' constant. (When sources gave their best in turn, the union found up to 3% less on days before.) EASE and
user_embedding take the regularisation that was best on the horizon before the date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.baselines import GRIDS, Moment
from rayrec.contracts.ragged import Ragged
from rayrec.ordering import best, padded_rows, ranks
from rayrec.retrieval.base import retriever_kind
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.retrieval.item_model import ItemModel
from rayrec.retrieval.sources import SourceSpec, read_sources
from rayrec.slates.examples import is_taken, known_at, taken_after, usable

SIZE = 100
BAR = 1.05  # x EASE alone
RESAMPLES = 1000
FUSION = 60
OURS = tuple(SourceSpec(f"user_embedding {lam:g}", "user_embedding", SIZE, {"lam": lam}) for lam in (10.0, 30.0, 100.0))
ALONE, UNION = "EASE alone", "night's sources + user_embedding"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Who is judged at a moment, and what they then took."""

    users: pa.Array
    wanted: Ragged  # int32 item codes

    @classmethod
    def at(cls, moment: Moment, horizon: int) -> Judged:
        """`horizon` in microseconds."""
        table = moment.everything
        wanted = taken_after(table, moment.cut, moment.cut + horizon, moment.day.event_weights)
        rows = np.flatnonzero(usable(known_at(table, moment.cut), wanted, moment.min_events))
        return cls(table["user_id"].combine_chunks().take(pa.array(rows)), wanted.take(rows))

    def recall(self, found: Ragged) -> Floats:
        """The share of what each user wanted that is among the items `found`, [users]."""
        hits = np.bincount(found.rows[is_taken(found, self.wanted)], minlength=len(found))
        return np.asarray(hits / self.wanted.lengths)


def report(now: Moment, before: Moment, horizon: int, name: str) -> bool:
    """Print the table and the summary line; whether the bar is met. `before`: a horizon (microseconds) earlier."""
    ease, ours = _chosen(before, horizon)
    night = [s for s in read_sources(now.day.config.retrieval.sources, SIZE) if s.top and s.kind != "user_embedding"]
    one = SourceSpec("one interest", "user_embedding", SIZE, {**ours.settings, "interests": 1})
    model, judged = now.fit([ease, ours, *night]), Judged.at(now, horizon)
    lists: dict[str, Sequence[SourceSpec]] = {
        ALONE: [ease],
        "iALS (one interest)": [one],
        "user_embedding": [ours],
        "EASE + iALS": [ease, one],
        "EASE + user_embedding": [ease, ours],
        "night's sources": night,
        UNION: [*night, ours],
    }
    tables = {row: proposals(now, model, specs, judged.users) for row, specs in lists.items()}
    found = {row: judged.recall(fused(tables[row], specs, SIZE)) for row, specs in lists.items()}
    print(f"\nrecall@{SIZE}, {len(judged.users):,} users, {ease.name}, {ours.name}")
    for row, recall in found.items():
        low, high = ratio_interval(recall, found[ALONE])
        print(f"{row:34} {recall.mean():.4f}  {recall.mean() / found[ALONE].mean():.3f} x EASE [{low:.3f}, {high:.3f}]")
    for row in ("night's sources", UNION):
        whole = Ragged.from_arrow(tables[row]["candidate"])
        recall, size = judged.recall(whole).mean(), whole.lengths.mean()
        print(f"{row + ', all of it':45} {recall:.4f}, {size:.0f} candidates a user")
    ratio = found[UNION].mean() / found[ALONE].mean()
    print(f"embed recall {name}: union {ratio:.3f} x EASE (bar {BAR}): {'met' if ratio >= BAR else 'NOT MET'}")
    return bool(ratio >= BAR)


def proposals(moment: Moment, model: ItemModel, specs: Sequence[SourceSpec], users: pa.Array) -> pa.Table:
    """The union of what the sources propose to these users, as the night makes it."""
    sources = tuple(Source(f"s{k}", SIZE, model.retriever(spec)) for k, spec in enumerate(specs))
    available = moment.catalogue["available"].combine_chunks().to_numpy(zero_copy_only=False)
    stage = CandidateStage("all", sources, available, True, moment.day.event_weights)
    return stage(moment.known(users))


def fused(table: pa.Table, specs: Sequence[SourceSpec], size: int) -> Ragged:
    """The `size` best of each user's proposals by reciprocal rank fusion (Cormack et al. 2009): item codes."""
    candidate = Ragged.from_arrow(table["candidate"])
    total = np.zeros(len(candidate.values), np.float32)
    for k, spec in enumerate(specs):
        score = Ragged.from_arrow(table[f"score.s{k}"]).values
        for block in padded_rows(candidate.offsets):
            rank = ranks(score[block.take], block.mask)[block.mask]
            place = block.take[block.mask]
            opinion = score[place] > 0 if retriever_kind(spec.kind).personal else np.ones(len(place), np.bool_)
            total[place] += np.where(opinion, 1 / (FUSION + 1 + rank), 0)
    places = best(candidate.like(total), size)
    return Ragged(candidate.values[places.values], places.offsets)


def ratio_interval(ours: Floats, theirs: Floats) -> tuple[float, float]:
    """95% bootstrap interval over users of the ratio of the means."""
    random = np.random.default_rng(0)
    weight = random.multinomial(len(ours), np.full(len(ours), 1 / len(ours)), size=RESAMPLES)
    low, high = np.quantile((weight @ ours) / (weight @ theirs), [0.025, 0.975])
    return float(low), float(high)


def _chosen(moment: Moment, horizon: int) -> tuple[SourceSpec, SourceSpec]:
    """EASE and user_embedding with the settings that were best at an earlier moment."""
    judged, grids = Judged.at(moment, horizon), (GRIDS["EASE"], OURS)
    model = moment.fit([spec for grid in grids for spec in grid])

    def worth(spec: SourceSpec) -> Any:
        return judged.recall(fused(proposals(moment, model, [spec], judged.users), [spec], SIZE)).mean()

    ease, ours = (max(grid, key=worth) for grid in grids)
    return ease, ours
