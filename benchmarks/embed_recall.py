"""Measures the recall of multi-interest candidates, against EASE alone and the configured sources.

Everything before the date is known. The relevant items are the new items that users with at least 3 events consumed
within the horizon after it. Every row proposes 100 items a user; of several sources, the best by reciprocal rank
fusion, as for the text rerankers. EASE and user_embedding have the regularisation that was best on the horizon before
the date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.plain_recommenders import GRIDS, CutoffSnapshot
from rayrec.data.cutoff_histories import consumed_after, histories_at, is_consumed, is_training_user
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best
from rayrec.reranking.text.text_reranker import reciprocal_rank_fusion
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.retrieval.item_model import ItemModel
from rayrec.retrieval.source_specs import SourceSpec, source_specs

SIZE = 100
BAR = 1.05  # x EASE alone
RESAMPLES = 1000
OURS = tuple(
    SourceSpec.of(f"user_embedding {lam:g}", "user_embedding", SIZE, regularization=lam) for lam in (10.0, 30.0, 100.0)
)
ALONE, UNION = "EASE alone", "configured sources + user_embedding"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EvaluationSet:
    """The evaluated users of a cutoff, and what they then consumed."""

    users: pa.Array
    wanted: Ragged  # int32 item codes

    @classmethod
    def at(cls, snapshot: CutoffSnapshot, horizon: int) -> EvaluationSet:
        """`horizon` in microseconds."""
        table = snapshot.everything
        wanted = consumed_after(table, snapshot.cutoff, snapshot.cutoff + horizon, snapshot.context.event_weights)
        rows = np.flatnonzero(is_training_user(histories_at(table, snapshot.cutoff), wanted, snapshot.min_events))
        return cls(table["user_id"].combine_chunks().take(pa.array(rows)), wanted.take(rows))

    def recall(self, found: Ragged) -> Floats:
        """The share of what each user wanted that is among the items `found`, [users]."""
        hits = np.bincount(found.rows[is_consumed(found, self.wanted)], minlength=len(found))
        return np.asarray(hits / self.wanted.lengths)


def report(now: CutoffSnapshot, before: CutoffSnapshot, horizon: int, name: str) -> bool:
    """Print the table and the summary line; whether the bar is met. `before`: a horizon (microseconds) earlier."""
    ease, ours = _tuned_sources(before, horizon)
    configured = [s for s in source_specs(now.context.config.retrieval) if s.top_k and s.method != "user_embedding"]
    one = replace(ours, name="one interest", settings=ours.settings.model_copy(update={"interests": 1}))
    model, evaluation = now.fit([ease, ours, *configured]), EvaluationSet.at(now, horizon)
    lists: dict[str, Sequence[SourceSpec]] = {
        ALONE: [ease],
        "iALS (one interest)": [one],
        "user_embedding": [ours],
        "EASE + iALS": [ease, one],
        "EASE + user_embedding": [ease, ours],
        "configured sources": configured,
        UNION: [*configured, ours],
    }
    tables = {row: proposals(now, model, specs, evaluation.users) for row, specs in lists.items()}
    found = {row: evaluation.recall(top_candidates(table)) for row, table in tables.items()}
    print(f"\nrecall@{SIZE}, {len(evaluation.users):,} users, {ease.name}, {ours.name}")
    for row, recall in found.items():
        low, high = ratio_interval(recall, found[ALONE])
        print(f"{row:34} {recall.mean():.4f}  {recall.mean() / found[ALONE].mean():.3f} x EASE [{low:.3f}, {high:.3f}]")
    for row in ("configured sources", UNION):
        whole = Ragged.from_arrow(tables[row]["candidate"])
        recall, size = evaluation.recall(whole).mean(), whole.lengths.mean()
        print(f"{row + ', all of it':45} {recall:.4f}, {size:.0f} candidates a user")
    ratio = found[UNION].mean() / found[ALONE].mean()
    print(f"embed recall {name}: union {ratio:.3f} x EASE (bar {BAR}): {'met' if ratio >= BAR else 'NOT MET'}")
    return bool(ratio >= BAR)


def proposals(snapshot: CutoffSnapshot, model: ItemModel, specs: Sequence[SourceSpec], users: pa.Array) -> pa.Table:
    """The union of what the sources propose to these users, as in the daily run."""
    sources = tuple(Source(f"s{k}", SIZE, model.retriever(spec)) for k, spec in enumerate(specs))
    available = snapshot.catalogue["available"].combine_chunks().to_numpy(zero_copy_only=False)
    stage = CandidateStage("all", sources, available, True, snapshot.context.event_weights)
    return stage(snapshot.known(users))


def top_candidates(table: pa.Table) -> Ragged:
    """The best SIZE of each user's proposals, as a text reranker gets them: item codes."""
    candidate = Ragged.from_arrow(table["candidate"])
    places = best(reciprocal_rank_fusion(table), SIZE)
    return places.like(candidate.values[places.values])


def ratio_interval(ours: Floats, theirs: Floats) -> tuple[float, float]:
    """95% bootstrap interval over users of the ratio of the means."""
    random = np.random.default_rng(0)
    weight = random.multinomial(len(ours), np.full(len(ours), 1 / len(ours)), size=RESAMPLES)
    low, high = np.quantile((weight @ ours) / (weight @ theirs), [0.025, 0.975])
    return float(low), float(high)


def _tuned_sources(snapshot: CutoffSnapshot, horizon: int) -> tuple[SourceSpec, SourceSpec]:
    """EASE and user_embedding with the settings that were best at an earlier cutoff."""
    evaluation, grids = EvaluationSet.at(snapshot, horizon), (GRIDS["EASE"], OURS)
    model = snapshot.fit([spec for grid in grids for spec in grid])

    def recall_of(spec: SourceSpec) -> Any:
        return evaluation.recall(top_candidates(proposals(snapshot, model, [spec], evaluation.users))).mean()

    ease, ours = (max(grid, key=recall_of) for grid in grids)
    return ease, ours
