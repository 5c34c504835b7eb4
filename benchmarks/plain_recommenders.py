"""Plain recommenders as baselines of the whole job, each as slates, without Ray.

popularity, popularity of the last 7 days, decayed popularity with the half-life that was best on the days before the
date, item-kNN, EASE and iALS (both with the regularisation that was best on those days), and the tuned LLM alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config.section import NoSettings
from rayrec.data.cutoff_histories import consumed_after, histories_at, is_training_user
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.denoising.denoiser import DenoiseStage
from rayrec.evaluation.metrics import RelevantItems, UserMetrics, user_metrics
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best
from rayrec.pipeline.arm_settings import default_instruction
from rayrec.pipeline.interaction_ingest import histories, read_catalogue
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing.records import Manifest
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.item_token.item_token_ranker import ItemTokenRanker
from rayrec.reranking.item_token.tuned_checkpoint import fetch_checkpoint
from rayrec.retrieval import item_model
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.retrieval.item_model import ItemModel
from rayrec.retrieval.popularity import PopularityRetriever
from rayrec.retrieval.retriever import Retriever
from rayrec.retrieval.source_specs import SourceSpec
from rayrec.storage import Storage

DEPTH = 50
GRIDS: dict[str, tuple[SourceSpec, ...]] = {  # the best of each on validation is in the table
    "decayed": tuple(
        SourceSpec.of(f"decayed {days:g} d", "recent_popularity", 0, half_life_days=days)
        for days in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    ),
    "item-kNN": (SourceSpec.of("item_knn", "item_knn", 0),),
    "EASE": tuple(SourceSpec.of(f"ease {lam:g}", "ease", 0, regularization=lam) for lam in (50.0, 200.0, 800.0)),
    "iALS": tuple(SourceSpec.of(f"ials {lam:g}", "ials", 0, regularization=lam) for lam in (1.0, 10.0, 100.0)),
}


@dataclass(frozen=True)
class CutoffSnapshot:
    """What is known at `cutoff` (microseconds UTC) of users with at least `min_events` events."""

    context: RunContext
    cutoff: int
    min_events: int

    @cached_property
    def everything(self) -> pa.Table:
        shards = range(self.context.config.data.shard_count)
        return pa.concat_tables([histories(self.context, shard) for shard in shards]).combine_chunks()

    @cached_property
    def catalogue(self) -> pa.Table:
        return read_catalogue(self.context)

    @cached_property
    def item_id(self) -> pa.Array:
        return self.catalogue["item_id"].combine_chunks()

    def fit(self, specs: Sequence[SourceSpec]) -> ItemModel:
        weights = self.context.event_weights
        return item_model.fit([self.everything], self.item_id, specs, weights, self.cutoff, 10**9)

    def known(self, users: pa.Array) -> pa.Table:
        """DENOISED_HISTORY rows of these users, nothing removed."""
        table = histories_at(self.everything, self.cutoff)
        table = table.filter(pc.is_in(table["user_id"], users)).combine_chunks()
        return DenoiseStage.load("whole", "none", NoSettings(), self.context.event_weights, {})(table)

    def candidates(self, users: pa.Array, name: str, retriever: Retriever, top: int = DEPTH) -> pa.Table:
        available = self.catalogue["available"].combine_chunks().to_numpy(zero_copy_only=False)
        stage = CandidateStage(
            name,
            (Source("own", top, retriever),),
            available,
            self.context.config.retrieval.exclude_seen,
            self.context.event_weights,
        )
        return stage(self.known(users))

    def slates(self, table: pa.Table, scores: Ragged) -> pa.Table:
        """user_id, rank, item_id: the DEPTH best candidates of each row."""
        places = best(scores, DEPTH)
        code = Ragged.from_arrow(table["candidate"]).values[places.values]
        rank = np.arange(len(places.values)) - places.offsets[places.rows] + 1
        users = table["user_id"].take(pa.array(places.rows))
        return pa.table({"user_id": users, "rank": rank, "item_id": self.item_id.take(pa.array(code))})

    def ranked_by(self, users: pa.Array, retriever: Retriever) -> pa.Table:
        table = self.candidates(users, "alone", retriever)
        return self.slates(table, Ragged.from_arrow(table["score.own"]))

    def truth(self, horizon_us: int) -> RelevantItems:
        """New items that users consumed within the horizon after the cutoff, as far as the histories have them."""
        until = self.cutoff + horizon_us
        wanted = consumed_after(self.everything, self.cutoff, until, self.context.event_weights, new_only=True)
        evaluated = is_training_user(histories_at(self.everything, self.cutoff), wanted, self.min_events)
        users = self.everything["user_id"].combine_chunks().take(pa.array(wanted.rows))
        mask = pa.array(evaluated[wanted.rows])
        return RelevantItems.from_pairs(
            users.filter(mask), self.item_id.take(pa.array(wanted.values)).filter(mask), self.item_id
        )


def tuned_sources(validation: CutoffSnapshot, horizon_us: int) -> dict[str, SourceSpec]:
    """Of each grid, the settings with the best nDCG@10 on the horizon after the validation cutoff."""
    truth = validation.truth(horizon_us)
    model = validation.fit([spec for grid in GRIDS.values() for spec in grid])
    found = {}
    for name, grid in GRIDS.items():
        worth = [
            _ndcg(user_metrics(s.name, validation.ranked_by(truth.user_id, model.retriever(s)), truth)) for s in grid
        ]
        found[name] = grid[int(np.argmax(worth))]
    return found


def baselines(
    now: CutoffSnapshot, validation: CutoffSnapshot, users: pa.Array, horizon_us: int
) -> Iterator[tuple[str, str, pa.Table]]:
    """(name, the settings chosen, slates) of each baseline."""
    specs = tuned_sources(validation, horizon_us)
    model = now.fit(tuple(specs.values()))
    yield "popularity", "", now.ranked_by(users, PopularityRetriever(model.count))
    yield (
        "last 7 days",
        "",
        now.ranked_by(users, PopularityRetriever(_counts_since(now, now.cutoff - 7 * MICROSECONDS_PER_DAY))),
    )
    for name, spec in specs.items():
        yield name, spec.name, now.ranked_by(users, model.retriever(spec))


def llm_alone(now: CutoffSnapshot, storage: Storage, manifest: Manifest, users: pa.Array) -> pa.Table:
    """Slates by the LLM's own answer over all items with a token, from whole histories."""
    model = fetch_checkpoint(storage, f"models/llm/{manifest.models['llm']}")
    engine = TransformersRunner(model.model_files, "hidden_state", EngineSettings())
    popularity = PopularityRetriever(now.fit(()).count)
    table = now.candidates(users, "llm", popularity, top=len(now.item_id))
    ranker = ItemTokenRanker(engine, model, now.catalogue, default_instruction(now.context), now.cutoff)
    scores = Ragged.from_arrow(ranker(table)["llm_score"])
    return now.slates(table, scores.like(np.where(np.isfinite(scores.values), scores.values, np.float32(-1e9))))


def _counts_since(now: CutoffSnapshot, start: int) -> npt.NDArray[np.float32]:
    item, ts = Ragged.from_arrow(now.everything["item"]), Ragged.from_arrow(now.everything["ts"]).values
    weight = np.asarray(now.context.event_weights, np.float32)[Ragged.from_arrow(now.everything["event"]).values]
    recent = (ts >= start) & (ts < now.cutoff) & (weight > 0)
    return np.bincount(item.values[recent], weight[recent], minlength=len(now.item_id)).astype(np.float32)


def _ndcg(evaluated: UserMetrics) -> Any:
    return evaluated.values["ndcg@10"].mean()
