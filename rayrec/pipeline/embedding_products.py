"""The publications of the embedding job: embeddings, and the neighbours and influences derived from them.

Each is a publishing run with its own settings. Derived products need the published embeddings of the date and their
model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.embeddings.embedder import KIND, Embedder
from rayrec.embeddings.embedding_reader import read_embeddings
from rayrec.embeddings.embedding_tables import INFLUENCE, INFLUENCES, NEIGHBOURS, neighbour_table, vectors_of
from rayrec.embeddings.interaction_influence import leave_one_out, most_influential
from rayrec.embeddings.neighbour_search import Index
from rayrec.embeddings.user_events import Events, Items
from rayrec.monitoring.progress import Progress
from rayrec.numerics.hashing import digest, shard_of, with_key_order
from rayrec.pipeline.embedding_training import settings_of, vector_settings
from rayrec.pipeline.erasure_check import publish_unless_erased
from rayrec.pipeline.interaction_ingest import ShardCounts, histories, ingest, read_catalogue
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing.code_version import package_versions
from rayrec.publishing.published_tables import PublishedTable
from rayrec.publishing.publishing_run import PublishingRun, PublishResult
from rayrec.publishing.records import Manifest, Provenance, RunRecord, UserCounts
from rayrec.ray_support.stage_runner import WorkItem, append_stage, run_pending

Floats = npt.NDArray[np.float32]

_ORDERED = ("data.events", "embeddings.views", "embeddings.instructions")  # settings whose key order counts


@dataclass(frozen=True)
class EmbeddingStageSpec:
    """The arguments of the embedding job's stages."""

    context: RunContext
    run: PublishingRun
    fingerprint: str  # model fingerprint
    shards: tuple[ShardCounts, ...] = ()

    def __hash__(self) -> int:
        return hash((self.context, self.run.record.run_id, self.fingerprint))


def record_of(context: RunContext) -> RunRecord:
    """The run record of the embeddings: it covers only settings that can change a vector."""
    settings = settings_of(context)
    data = context.config.data.model_dump(mode="json", exclude={"root"})
    fingerprinted_settings = {"embeddings": vector_settings(settings), "data": data}
    return RunRecord(
        date=context.date,
        fingerprint=digest(with_key_order(fingerprinted_settings, *_ORDERED)),
        fingerprinted_settings=fingerprinted_settings,
        inputs=context.inputs,
        shards=context.config.data.shard_count,
        arms=tuple(settings.instructions),
        code_version=context.code_version,
    )


def neighbours_record(context: RunContext) -> RunRecord:
    return _derived_record(context, "neighbours", settings_of(context).neighbour_lists)


def influence_record(context: RunContext) -> RunRecord:
    return _derived_record(context, "influence", tuple(settings_of(context).instructions))


def _derived_record(context: RunContext, section: str, arms: tuple[str, ...]) -> RunRecord:
    """The record of `record_of` with the settings of one section of `embeddings`."""
    vectors = record_of(context)
    fingerprinted_settings = {
        **vectors.fingerprinted_settings,
        section: getattr(settings_of(context), section).model_dump(mode="json"),
    }
    fingerprint = digest(with_key_order(fingerprinted_settings, *_ORDERED))
    return replace(vectors, fingerprinted_settings=fingerprinted_settings, fingerprint=fingerprint, arms=arms)


def publish_neighbours(context: RunContext, manifest: Manifest) -> PublishResult:
    """Publish the nearest users and items. `manifest` is the embeddings' manifest."""
    return _publish_derived(
        context, manifest, neighbours_record(context), NEIGHBOURS, NeighbourShard, needs_histories=False
    )


def publish_influences(context: RunContext, manifest: Manifest) -> PublishResult:
    """Publish the events that each vector depends on most. `manifest` is the embeddings' manifest."""
    return _publish_derived(
        context, manifest, influence_record(context), INFLUENCES, InfluenceShard, needs_histories=True
    )


def _publish_derived(
    context: RunContext,
    manifest: Manifest,
    record: RunRecord,
    product: PublishedTable,
    stage: Callable[[EmbeddingStageSpec], Any],
    *,
    needs_histories: bool,
) -> PublishResult:
    """Run `stage` for every shard that has no receipt yet, then publish."""
    opened = PublishingRun.open(context.storage, record, product)
    if opened.published is not None:
        return PublishResult("published", opened.published)
    done = opened.receipts()
    pending = [WorkItem(context.cutoff, shard) for shard in range(manifest.shards) if shard not in done]
    if pending and needs_histories:
        ingest(context)  # the work folder may have been deleted since
    spec, at_once = EmbeddingStageSpec(context, opened, manifest.models[KIND]), context.config.resources.score_tasks
    with Progress(product.name, manifest.shards, unit="shards") as progress:
        progress.advance(len(done))
        run_pending(pending, lambda dataset: append_stage(dataset, stage, spec, concurrency=at_once), progress.advance)
    provenance = Provenance(users_in=manifest.users.published, models=manifest.models, versions=package_versions())
    return publish_unless_erased(context, opened, provenance)


@lru_cache(maxsize=2)
def load_embedder(context: RunContext, fingerprint: str) -> Embedder:
    return Embedder.load(context.storage, fingerprint)


class InfluenceShard:
    """Stage: the events of one shard's users that change their vectors most when left out, per instruction."""

    def __init__(self, spec: EmbeddingStageSpec) -> None:
        self._spec, self._settings = spec, settings_of(spec.context)
        catalogue = read_catalogue(spec.context)
        self._embedder = load_embedder(spec.context, spec.fingerprint)
        self._view_builder = self._embedder.view_builder(Items.of(catalogue, self._settings.price))
        self._item_id = catalogue["item_id"].combine_chunks()

    def __call__(self, item: WorkItem, _: pa.Table) -> pa.Table:
        context, instructions = self._spec.context, self._settings.instructions
        table = histories(context, item.shard).sort_by("user_id")
        tables = {name: INFLUENCE.empty_table() for name in instructions}
        events = Events.of(table, context.event_weights, context.cutoff)
        if len(events.item):
            texts = [instruction.text for instruction in instructions.values()]
            found = leave_one_out(self._embedder, self._view_builder, events, texts)
            for k, (name, instruction) in enumerate(instructions.items()):
                removed = most_influential(events, found.influence[k], instruction.max_removed_share)
                user_id, influence = table["user_id"].combine_chunks(), found.influence[k]
                tables[name] = self._rows(user_id, name, events, influence, found.alignment[k], removed)
        users, with_events = table.num_rows, int(np.count_nonzero(events.lengths))
        ineligible = {"no events": users - with_events} if users > with_events else {}
        self._spec.run.commit(item.shard, tables, UserCounts(users, with_events, ineligible=ineligible))
        return pa.table({"users": [users]})

    def _rows(
        self,
        user_id: pa.Array,
        name: str,
        events: Events,
        influence: Floats,
        alignment: Floats,
        removed: npt.NDArray[np.bool_],
    ) -> pa.Table:
        """INFLUENCE rows of one instruction: each user's `influence.events` events with the highest influence."""
        order = np.lexsort((np.arange(len(events.item)), -influence, events.user))
        rank = np.arange(len(order)) - events.offsets[events.user[order]] + 1
        listed = rank <= self._settings.influence.events
        chosen, rank = order[listed], rank[listed]
        event_names = pa.array(list(self._spec.context.config.data.events), pa.string())
        columns = [
            user_id.take(pa.array(events.user[chosen])),
            pa.repeat(pa.scalar(name), len(chosen)),
            pa.array(rank, pa.int32()),
            self._item_id.take(pa.array(events.item[chosen])),
            pa.array(events.ts[chosen]).cast(INFLUENCE.field("ts").type),
            event_names.take(pa.array(events.event[chosen])),
            pa.array(influence[chosen]),
            pa.array(alignment[chosen]),
            pa.array(removed[chosen]),
        ]
        return pa.table(columns, schema=INFLUENCE)


@dataclass(frozen=True)
class IndexedUsers:
    """All users' vectors under one instruction, sorted by user_id, with a search index."""

    user_id: pa.Array
    vectors: Floats  # [users, dim]
    index: Index


class NeighbourShard:
    """Stage: the nearest users and items of one shard's users, per instruction.

    Holds the vectors of all users under all instructions twice: 8 bytes per user, instruction and dimension.
    """

    def __init__(self, spec: EmbeddingStageSpec) -> None:
        self._spec, self._settings = spec, settings_of(spec.context)
        self._users = _indexed_users(spec.context, spec.run.record.arms)
        self._items = _indexed_items(spec.context, spec.fingerprint) if self._settings.neighbours.items else None

    def __call__(self, item: WorkItem, _: pa.Table) -> pa.Table:
        run, wanted = self._spec.run, self._settings.neighbours
        tables, users, with_neighbours = {}, 0, set[str]()
        for arm in run.record.arms:
            instruction, kind = arm.rsplit(".", 1)
            indexed = self._users[instruction]
            rows = np.flatnonzero(shard_of(indexed.user_id, run.record.shards) == item.shard)
            user_id, vectors = indexed.user_id.take(pa.array(rows)), indexed.vectors[rows]
            if kind == "users":
                ids, nearest = indexed.user_id, indexed.index.search(vectors, wanted.users, rows)
            else:
                assert self._items is not None
                ids, nearest = self._items[0], self._items[1].search(vectors, wanted.items)
            tables[arm] = neighbour_table(user_id, instruction, kind, ids, nearest)
            users = len(rows)
            with_neighbours |= set(tables[arm]["user_id"].to_pylist())
        ineligible = {"alone": users - len(with_neighbours)} if users > len(with_neighbours) else {}
        run.commit(item.shard, tables, UserCounts(users, len(with_neighbours), ineligible=ineligible))
        return pa.table({"users": [users]})


@lru_cache(maxsize=1)
def _indexed_users(context: RunContext, arms: tuple[str, ...]) -> dict[str, IndexedUsers]:
    found = {}
    for instruction in dict.fromkeys(arm.rsplit(".", 1)[0] for arm in arms):
        table = read_embeddings(context.config.output.root, context.date, instruction).sort_by("user_id")
        vectors = vectors_of(table)
        found[instruction] = IndexedUsers(table["user_id"].combine_chunks(), vectors, Index(vectors))
    return found


@lru_cache(maxsize=1)
def _indexed_items(context: RunContext, fingerprint: str) -> tuple[pa.Array, Index]:
    catalogue = read_catalogue(context)
    items = Items.of(catalogue, settings_of(context).price)
    return catalogue["item_id"].combine_chunks(), Index(load_embedder(context, fingerprint).embed_items(items))
