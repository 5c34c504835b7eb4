"""The embeddings of a date, from the first event to the publication: read `run` from top to bottom.

    ingest   events -> contract -> histories by shard, shared with `jobs.daily`
    train    the model, as of the date: found by its fingerprint or made (rayrec.pipeline.embedding_training)
    embed    shard by shard: views -> vectors under every instruction -> commit
    publish  one conditional write
    beside   where the config asks for it: who and what is nearest to whom (embed_neighbours), what the vectors rest on
             (embed_influence), published by a write of their own each

Every step finds what an earlier attempt finished and goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from rayrec.embeddings.embedder import KIND, Embedder
from rayrec.embeddings.embedding_tables import EMBEDDINGS, embedding_schema, embedding_table
from rayrec.embeddings.interaction_influence import embed_denoised
from rayrec.embeddings.user_events import Events, Items
from rayrec.monitoring.progress import Progress
from rayrec.numerics.hashing import digest
from rayrec.pipeline import embedding_influence, embedding_neighbours
from rayrec.pipeline.embedding_side_products import embedder_of, record_of
from rayrec.pipeline.embedding_training import fit, settings_of
from rayrec.pipeline.interaction_ingest import IngestResult, ShardCounts, histories, ingest, read_catalogue
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.slate_commit import user_counts
from rayrec.publishing.code_version import package_versions
from rayrec.publishing.publishing_run import PublishingRun, PublishResult
from rayrec.publishing.records import Provenance
from rayrec.ray_support.stage_runner import WorkItem, append_stage, run_pending


@dataclass(frozen=True)
class EmbedResult:
    """How a run ended."""

    publication: PublishResult
    already_published: bool  # it was published before this run started
    card: Mapping[str, Any]  # of the model; empty where it was
    neighbours: PublishResult | None = None  # where the config asks for some
    influences: PublishResult | None = None  # likewise


def run(context: RunContext) -> EmbedResult:
    """Everything for one date; a Ray cluster must be connected. Raises RayrecErrors; what failed is not published."""
    opened = PublishingRun.open(context.storage, record_of(context), EMBEDDINGS)
    if opened.published is not None:
        embedded = EmbedResult(PublishResult("published", opened.published), True, {})
    else:
        embedded = _embedded(context, opened)
    settings, manifest = settings_of(context), embedded.publication.manifest
    return replace(
        embedded,
        neighbours=embedding_neighbours.publish(context, manifest) if settings.neighbour_lists else None,
        influences=embedding_influence.publish(context, manifest) if settings.influence.events else None,
    )


def _embedded(context: RunContext, opened: PublishingRun) -> EmbedResult:
    data = ingest(context)
    fingerprint = fit(context)
    embed(context, opened, data, fingerprint)
    provenance = Provenance(
        users_in=data.users,
        models={KIND: fingerprint},
        prompt_hash=digest({name: one.text for name, one in settings_of(context).instructions.items()}),
        input_rows=data.input_rows,
        quarantined_rows=data.quarantined,
        versions=package_versions(),
    )
    return EmbedResult(opened.publish(provenance), False, Embedder.load(context.storage, fingerprint).card)


def embed(context: RunContext, run: PublishingRun, data: IngestResult, fingerprint: str) -> None:
    """Commit every shard that has no receipt yet."""
    done = run.receipts()
    pending = [shard for shard in range(context.config.data.shards) if shard not in done]
    spec = EmbeddingSpec(context, run, fingerprint, data.shards)
    with Progress("embed", data.users) as progress:
        progress.advance(data.users - sum(data.shards[shard].users for shard in pending))
        run_pending(
            [WorkItem(context.cutoff, shard) for shard in pending],
            lambda dataset: append_stage(dataset, EmbedShard, spec, concurrency=context.config.resources.score_tasks),
            progress.advance,
            lambda counts: int(counts["users"][0].as_py()),
        )


@dataclass(frozen=True)
class EmbeddingSpec:
    """What the stage is told."""

    context: RunContext
    run: PublishingRun
    fingerprint: str  # of the model
    shards: tuple[ShardCounts, ...]

    def __hash__(self) -> int:
        return hash((self.context, self.run.record.run_id, self.fingerprint))


class EmbedShard:
    """Stage: one shard's histories into vectors under every instruction, files and a receipt."""

    def __init__(self, spec: EmbeddingSpec) -> None:
        self._spec = spec
        context, settings = spec.context, settings_of(spec.context)
        self._embedder = embedder_of(context, spec.fingerprint)
        self._viewer = self._embedder.view_builder(Items.of(read_catalogue(context), settings.price))
        self._texts = {name: one.text for name, one in settings.instructions.items()}

    def __call__(self, item: WorkItem, _: pa.Table) -> pa.Table:
        context, embedder = self._spec.context, self._embedder
        table = histories(context, item.shard)
        tables = {name: embedding_schema(embedder.dim).empty_table() for name in self._texts}
        if table.num_rows:
            events = Events.of(table, context.event_weights, context.cutoff)
            views = self._viewer(events)
            vectors = embedder.embed(views, list(self._texts.values()))
            for k, one in enumerate(settings_of(context).instructions.values()):
                if one.leave_out:
                    vectors[k] = embed_denoised(embedder, self._viewer, events, one.text, one.leave_out)
            present = embedder.present(views)
            users = table["user_id"].combine_chunks()
            for name, rows in zip(self._texts, vectors, strict=True):
                tables[name] = embedding_table(users, name, rows, present, embedder.model.sources)
        users_in = user_counts(self._spec.shards[item.shard], table.num_rows, 0)
        receipt = self._spec.run.commit(item.shard, tables, users_in)
        return pa.table({"users": [receipt.users.users_in]})
