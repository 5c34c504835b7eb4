"""The embeddings of a date, from the first event to the publication: read `run` from top to bottom.

    ingest   events -> contract -> histories by shard, shared with `jobs.daily`
    train    the model, as of the date: found by its fingerprint or made (rayrec.pipeline.embed_training)
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
from rayrec.embeddings.events import Events, Items
from rayrec.embeddings.influence import embed_without
from rayrec.embeddings.publication import EMBEDDINGS
from rayrec.embeddings.schema import embedding_schema, embedding_table
from rayrec.hashing import digest
from rayrec.pipeline import embed_influence, embed_neighbours
from rayrec.pipeline.carry import carry, over_units, results
from rayrec.pipeline.commit import users_of_shard
from rayrec.pipeline.day import Day
from rayrec.pipeline.embed_beside import embedder_of, record_of
from rayrec.pipeline.embed_training import fit, settings_of
from rayrec.pipeline.ingest import Ingested, ShardCounts, histories, ingest, read_catalogue
from rayrec.progress import Progress
from rayrec.publishing.records import Provenance
from rayrec.publishing.run import Publication, Run
from rayrec.publishing.versions import versions


@dataclass(frozen=True)
class Embedded:
    """How a run ended."""

    publication: Publication
    already: bool  # it was published before this run started
    card: Mapping[str, Any]  # of the model; empty where it was
    neighbours: Publication | None = None  # where the config asks for some
    influences: Publication | None = None  # likewise


def run(day: Day) -> Embedded:
    """Everything for one date; a Ray cluster must be connected. Raises RayrecErrors; what failed is not published."""
    opened = Run.open(day.storage, record_of(day), EMBEDDINGS)
    if opened.published is not None:
        embedded = Embedded(Publication("published", opened.published), True, {})
    else:
        embedded = _embedded(day, opened)
    settings, manifest = settings_of(day), embedded.publication.manifest
    return replace(
        embedded,
        neighbours=embed_neighbours.publish(day, manifest) if settings.neighbour_lists else None,
        influences=embed_influence.publish(day, manifest) if settings.influence.events else None,
    )


def _embedded(day: Day, opened: Run) -> Embedded:
    data = ingest(day)
    fingerprint = fit(day)
    embed(day, opened, data, fingerprint)
    provenance = Provenance(
        users_in=data.users,
        models={KIND: fingerprint},
        prompt_hash=digest({name: one.text for name, one in settings_of(day).instructions.items()}),
        input_rows=data.input_rows,
        quarantined_rows=data.quarantined,
        versions=versions(),
    )
    return Embedded(opened.publish(provenance), False, Embedder.load(day.storage, fingerprint).card)


def embed(day: Day, run: Run, data: Ingested, fingerprint: str) -> None:
    """Commit every shard that has no receipt yet."""
    done = run.receipts()
    to_do = [shard for shard in range(day.config.data.shards) if shard not in done]
    spec = EmbeddingSpec(day, run, fingerprint, data.shards)
    with Progress("embed", data.users) as progress:
        progress.advance(data.users - sum(data.shards[shard].users for shard in to_do))
        if to_do:
            for counts in results(
                carry(over_units(to_do), EmbedShard, spec, concurrency=day.config.resources.score_tasks)
            ):
                progress.advance(counts["users"][0].as_py())


@dataclass(frozen=True)
class EmbeddingSpec:
    """What the stage is told."""

    day: Day
    run: Run
    fingerprint: str  # of the model
    shards: tuple[ShardCounts, ...]

    def __hash__(self) -> int:
        return hash((self.day, self.run.record.run_id, self.fingerprint))


class EmbedShard:
    """Stage: one shard's histories into vectors under every instruction, files and a receipt."""

    def __init__(self, spec: EmbeddingSpec) -> None:
        self._spec = spec
        day, settings = spec.day, settings_of(spec.day)
        self._embedder = embedder_of(day, spec.fingerprint)
        self._viewer = self._embedder.viewer(Items.of(read_catalogue(day), settings.price))
        self._texts = {name: one.text for name, one in settings.instructions.items()}

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        day, embedder = self._spec.day, self._embedder
        table = histories(day, unit)
        tables = {name: embedding_schema(embedder.dim).empty_table() for name in self._texts}
        if table.num_rows:
            events = Events.of(table, day.event_weights, day.cut)
            views = self._viewer(events)
            vectors = embedder.embed(views, list(self._texts.values()))
            for k, one in enumerate(settings_of(day).instructions.values()):
                if one.leave_out:
                    vectors[k] = embed_without(embedder, self._viewer, events, one.text, one.leave_out)
            present = embedder.present(views)
            users = table["user_id"].combine_chunks()
            for name, rows in zip(self._texts, vectors, strict=True):
                tables[name] = embedding_table(users, name, rows, present, embedder.model.sources)
        users_in = users_of_shard(self._spec.shards[unit], table.num_rows, 0)
        receipt = self._spec.run.commit(unit, tables, users_in)
        return pa.table({"users": [receipt.users.users_in]})
