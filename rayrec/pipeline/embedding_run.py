"""The embedding job for one date. `run` calls the steps in order.

    ingest   events -> validated histories by shard, shared with `jobs.daily`
    train    the model as of the date: reused by fingerprint or trained (rayrec.pipeline.embedding_training)
    embed    per shard: views -> a vector under every instruction -> files and a receipt
    publish  one conditional write
    derive   if configured: neighbours and influences, each published on its own (rayrec.pipeline.embedding_products)

Every step reuses what an earlier attempt finished.
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
from rayrec.pipeline.embedding_products import (
    EmbeddingStageSpec,
    load_embedder,
    publish_influences,
    publish_neighbours,
    record_of,
)
from rayrec.pipeline.embedding_training import fit, settings_of
from rayrec.pipeline.erasure_check import publish_unless_erased
from rayrec.pipeline.interaction_ingest import IngestResult, histories, ingest, read_catalogue
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
    already_published: bool  # before this run started
    card: Mapping[str, Any]  # model card; empty if already published
    neighbours: PublishResult | None = None  # if configured
    influences: PublishResult | None = None  # if configured


def run(context: RunContext) -> EmbedResult:
    """Run all steps for one date on the connected Ray cluster. Raises RayrecErrors; what failed is not published."""
    opened = PublishingRun.open(context.storage, record_of(context), EMBEDDINGS)
    if opened.published is not None:
        result = EmbedResult(PublishResult("published", opened.published), True, {})
    else:
        result = _publish_embeddings(context, opened)
    settings, manifest = settings_of(context), result.publication.manifest
    return replace(
        result,
        neighbours=publish_neighbours(context, manifest) if settings.neighbour_lists else None,
        influences=publish_influences(context, manifest) if settings.influence.events else None,
    )


def _publish_embeddings(context: RunContext, opened: PublishingRun) -> EmbedResult:
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
    return EmbedResult(
        publish_unless_erased(context, opened, provenance), False, Embedder.load(context.storage, fingerprint).card
    )


def embed(context: RunContext, run: PublishingRun, data: IngestResult, fingerprint: str) -> None:
    """Commit every shard that has no receipt yet."""
    done, at_once = run.receipts(), context.config.resources.score_tasks
    pending = [WorkItem(context.cutoff, shard) for shard in range(context.config.data.shard_count) if shard not in done]
    spec = EmbeddingStageSpec(context, run, fingerprint, data.shards)
    with Progress("embed", data.users) as progress:
        progress.advance(data.users - sum(data.shards[item.shard].users for item in pending))
        run_pending(
            pending,
            lambda dataset: append_stage(dataset, EmbedShard, spec, concurrency=at_once),
            progress.advance,
            lambda counts: int(counts["users"][0].as_py()),
            "embed",
        )


class EmbedShard:
    """Stage: the vectors of one shard's users under every instruction, as files and a receipt."""

    def __init__(self, spec: EmbeddingStageSpec) -> None:
        self._spec, self._settings = spec, settings_of(spec.context)
        self._embedder = load_embedder(spec.context, spec.fingerprint)
        items = Items.of(read_catalogue(spec.context), self._settings.price)
        self._view_builder = self._embedder.view_builder(items)

    def __call__(self, item: WorkItem, _: pa.Table) -> pa.Table:
        context, embedder, instructions = self._spec.context, self._embedder, self._settings.instructions
        table = histories(context, item.shard)
        tables = {name: embedding_schema(embedder.dim).empty_table() for name in instructions}
        if table.num_rows:
            events = Events.of(table, context.event_weights, context.cutoff)
            views = self._view_builder(events)
            vectors = embedder.embed(views, [one.text for one in instructions.values()])
            for k, one in enumerate(instructions.values()):
                if one.max_removed_share:
                    vectors[k] = embed_denoised(embedder, self._view_builder, events, one.text, one.max_removed_share)
            present = embedder.present(views)
            users = table["user_id"].combine_chunks()
            for name, rows in zip(instructions, vectors, strict=True):
                tables[name] = embedding_table(users, name, rows, present, embedder.model.sources)
        users_in = user_counts(self._spec.shards[item.shard], table.num_rows, 0)
        receipt = self._spec.run.commit(item.shard, tables, users_in)
        return pa.table({"users": [receipt.users.users_in]})
