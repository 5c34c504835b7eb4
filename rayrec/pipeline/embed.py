"""The embeddings of a date, from the first event to the publication: read `run` from top to bottom.

    ingest   events -> contract -> histories by shard, shared with `jobs.daily`
    train    the model, as of the date: found by its fingerprint or made (rayrec.pipeline.embed_training)
    embed    shard by shard: views -> vectors under every instruction -> commit
    publish  one conditional write
    near     where the config asks for neighbours: who and what is nearest to whom, published by a write of their own

Every step finds what an earlier attempt finished and goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.embeddings.embedder import KIND, Embedder
from rayrec.embeddings.events import Events, Items
from rayrec.embeddings.neighbours import Index
from rayrec.embeddings.publication import EMBEDDINGS, NEIGHBOURS
from rayrec.embeddings.reader import read_embeddings
from rayrec.embeddings.schema import embedding_schema, embedding_table, neighbour_table, vectors_of
from rayrec.hashing import digest, ordered, shard_of
from rayrec.pipeline.carry import carry, over_units, results
from rayrec.pipeline.commit import users_of_shard
from rayrec.pipeline.day import Day
from rayrec.pipeline.embed_training import fit, of_vectors, settings_of
from rayrec.pipeline.ingest import Ingested, ShardCounts, histories, ingest, read_catalogue
from rayrec.progress import Progress
from rayrec.publishing.records import Manifest, Provenance, RunRecord, UserCounts
from rayrec.publishing.run import Publication, Run
from rayrec.publishing.versions import versions

_IN_ORDER = ("data.events", "embeddings.sources", "embeddings.instructions")
"""Where the order of keys is part of what is embedded."""


@dataclass(frozen=True)
class Embedded:
    """How a run ended."""

    publication: Publication
    already: bool  # it was published before this run started
    card: Mapping[str, Any]  # of the model; empty where it was
    neighbours: Publication | None = None  # where the config asks for some


def run(day: Day) -> Embedded:
    """Everything for one date; a Ray cluster must be connected. Raises RayrecErrors; what failed is not published."""
    opened = Run.open(day.storage, record_of(day), EMBEDDINGS)
    if opened.published is not None:
        embedded = Embedded(Publication("published", opened.published), True, {})
    else:
        embedded = _embedded(day, opened)
    if not settings_of(day).neighbour_lists:
        return embedded
    return replace(embedded, neighbours=find_neighbours(day, embedded.publication.manifest))


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


def record_of(day: Day) -> RunRecord:
    """What publishing calls this run: only what can change a vector makes it another one."""
    settings = settings_of(day)
    data = day.config.data.model_dump(mode="json", exclude={"root"})
    meaning = {"embeddings": of_vectors(settings), "data": data}
    return RunRecord(
        date=day.date,
        fingerprint=digest(ordered(meaning, *_IN_ORDER)),
        meaning=meaning,
        inputs=day.inputs,
        shards=day.config.data.shards,
        arms=tuple(settings.instructions),
        code_version=day.code,
    )


def neighbours_record_of(day: Day) -> RunRecord:
    """As `record_of`, of neighbours: another number of them makes another run, of the same vectors."""
    settings, vectors = settings_of(day), record_of(day)
    meaning = {**vectors.meaning, "neighbours": settings.neighbours.model_dump(mode="json")}
    fingerprint = digest(ordered(meaning, *_IN_ORDER))
    return replace(vectors, meaning=meaning, fingerprint=fingerprint, arms=settings.neighbour_lists)


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
        self._embedder = _loaded(day, spec.fingerprint)
        self._viewer = self._embedder.viewer(Items.of(read_catalogue(day), settings.price))
        self._texts = {name: one.text for name, one in settings.instructions.items()}

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        day, embedder = self._spec.day, self._embedder
        table = histories(day, unit)
        tables = {name: embedding_schema(embedder.dim).empty_table() for name in self._texts}
        if table.num_rows:
            views = self._viewer(Events.of(table, day.event_weights, day.cut))
            vectors = embedder.embed(views, list(self._texts.values()))
            present = embedder.present(views)
            users = table["user_id"].combine_chunks()
            for name, rows in zip(self._texts, vectors, strict=True):
                tables[name] = embedding_table(users, name, rows, present, embedder.model.sources)
        users_in = users_of_shard(self._spec.shards[unit], table.num_rows, 0)
        receipt = self._spec.run.commit(unit, tables, users_in)
        return pa.table({"users": [receipt.users.users_in]})


def find_neighbours(day: Day, manifest: Manifest) -> Publication:
    """Publish who and what is nearest to the users of published embeddings, shard by shard, resumed like them."""
    opened = Run.open(day.storage, neighbours_record_of(day), NEIGHBOURS)
    if opened.published is not None:
        return Publication("published", opened.published)
    done = opened.receipts()
    to_do = [shard for shard in range(manifest.shards) if shard not in done]
    with Progress("near", manifest.shards, unit="shards") as progress:
        progress.advance(len(done))
        if to_do:
            spec = NeighbourSpec(day, opened, manifest.models[KIND])
            for _ in results(carry(over_units(to_do), NearShard, spec, concurrency=day.config.resources.score_tasks)):
                progress.advance(1)
    return opened.publish(Provenance(users_in=manifest.users.published, models=manifest.models, versions=versions()))


@dataclass(frozen=True)
class NeighbourSpec:
    """What the stage is told."""

    day: Day
    run: Run
    fingerprint: str  # of the model

    def __hash__(self) -> int:
        return hash((self.day, self.run.record.run_id, self.fingerprint))


@dataclass(frozen=True)
class Known:
    """Everybody's vectors under one instruction, by user_id, and the same to be searched."""

    user_id: pa.Array
    vectors: npt.NDArray[np.float32]  # [users, dim]
    index: Index


class NearShard:
    """Stage: the neighbours of one shard's users under every instruction, files and a receipt.

    Holds the vectors of all users under all instructions: 4 bytes a user, instruction and dimension, twice.
    """

    def __init__(self, spec: NeighbourSpec) -> None:
        self._spec = spec
        self._settings = settings_of(spec.day)
        self._known = _known(spec.day, spec.run.record.arms)
        self._items = _found_items(spec.day, spec.fingerprint) if self._settings.neighbours.items else None

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        run, wanted = self._spec.run, self._settings.neighbours
        tables, users, having = {}, 0, set[str]()
        for arm in run.record.arms:
            instruction, of = arm.rsplit(".", 1)
            known = self._known[instruction]
            rows = np.flatnonzero(shard_of(known.user_id, run.record.shards) == unit)
            user_id, vectors = known.user_id.take(pa.array(rows)), known.vectors[rows]
            if of == "users":
                ids, nearest = known.user_id, known.index.nearest(vectors, wanted.users, rows)
            else:
                assert self._items is not None
                ids, nearest = self._items[0], self._items[1].nearest(vectors, wanted.items)
            tables[arm] = neighbour_table(user_id, instruction, of, ids, nearest)
            users = len(rows)
            having |= set(tables[arm]["user_id"].to_pylist())
        alone = {"alone": users - len(having)} if users > len(having) else {}
        run.commit(unit, tables, UserCounts(users, len(having), ineligible=alone))
        return pa.table({"users": [users]})


@lru_cache(maxsize=1)
def _known(day: Day, lists: tuple[str, ...]) -> dict[str, Known]:
    found = {}
    for instruction in dict.fromkeys(arm.rsplit(".", 1)[0] for arm in lists):
        table = read_embeddings(day.config.output.root, day.date, instruction).sort_by("user_id")
        vectors = vectors_of(table)
        found[instruction] = Known(table["user_id"].combine_chunks(), vectors, Index(vectors))
    return found


@lru_cache(maxsize=1)
def _found_items(day: Day, fingerprint: str) -> tuple[pa.Array, Index]:
    catalogue = read_catalogue(day)
    items = Items.of(catalogue, settings_of(day).price)
    return catalogue["item_id"].combine_chunks(), Index(_loaded(day, fingerprint).embed_items(items))


@lru_cache(maxsize=2)
def _loaded(day: Day, fingerprint: str) -> Embedder:
    return Embedder.load(day.storage, fingerprint)
