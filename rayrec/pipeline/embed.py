"""The embeddings of a date, from the first event to the publication: read `run` from top to bottom.

    ingest   events -> contract -> histories by shard, shared with `jobs.daily`
    train    the model, as of the date: found by its fingerprint or made
    embed    shard by shard: views -> vectors under every instruction -> commit
    publish  one conditional write

Every step finds what an earlier attempt finished and goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import ray

from rayrec import artefacts
from rayrec.config.embeddings import Embeddings
from rayrec.embeddings.embedder import KIND, Embedder
from rayrec.embeddings.events import Events, Items
from rayrec.embeddings.lessons import lessons
from rayrec.embeddings.publication import EmbeddingRun
from rayrec.embeddings.schema import embedding_schema, embedding_table
from rayrec.embeddings.training import train
from rayrec.errors import ConfigError
from rayrec.hashing import digest
from rayrec.pipeline.carry import carry, over_units, results
from rayrec.pipeline.commit import users_of_shard
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import Ingested, ShardCounts, histories, ingest, read_catalogue
from rayrec.progress import Progress
from rayrec.publishing.records import Provenance, RunRecord
from rayrec.publishing.run import Publication
from rayrec.publishing.versions import code_version, versions


@dataclass(frozen=True)
class Embedded:
    """How a run ended."""

    publication: Publication
    already: bool  # it was published before this run started: nothing was done
    card: Mapping[str, Any]  # of the model; empty where nothing was done


def run(day: Day) -> Embedded:
    """Everything for one date; a Ray cluster must be connected. Raises RayrecErrors; nothing is published then."""
    opened = EmbeddingRun.open(day.storage, record_of(day))
    if opened.published is not None:
        return Embedded(Publication("published", opened.published), True, {})
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


def settings_of(day: Day) -> Embeddings:
    """Raises ConfigError where the config has none."""
    if day.config.embeddings is None:
        raise ConfigError(
            "the config does not say what to embed",
            where="embeddings",
            do="add the section; conf/online_retail.yaml has one to start from",
        )
    return day.config.embeddings


def record_of(day: Day) -> RunRecord:
    """What publishing calls this run: only what can change a vector makes it another one."""
    settings = settings_of(day)
    data = day.config.data.model_dump(mode="json", exclude={"root"})
    meaning = {"embeddings": settings.model_dump(mode="json"), "data": data}
    return RunRecord(
        date=day.date,
        fingerprint=digest(meaning),
        meaning=meaning,
        inputs=day.inputs,
        shards=day.config.data.shards,
        arms=tuple(settings.instructions),
        code_version=code_version(),
    )


def model_fingerprint(day: Day) -> str:
    """Of everything that can change the weights: not of instructions that are asked but not taught."""
    settings = settings_of(day).model_dump(mode="json")
    taught = [one for one in settings["instructions"].items() if one[1]["answer"]]
    ordered = {"instructions": taught, "sources": list(settings["sources"].items())}  # an order is part of a model
    return digest([settings | ordered, day.data_fingerprint, day.cut])


def fit(day: Day) -> str:
    """The fingerprint of the day's model, trained by a task if it is not there yet."""
    fingerprint = model_fingerprint(day)
    if not artefacts.exists(day.storage, KIND, fingerprint):
        resources = day.config.resources
        cpus = min(resources.tune_num_cpus, ray.cluster_resources().get("CPU", resources.tune_num_cpus))
        with Progress("train", 1, unit="models") as progress:
            ray.get(ray.remote(num_cpus=cpus, max_retries=3)(_fit).remote(day, fingerprint))
            progress.advance()
    return fingerprint


def embed(day: Day, run: EmbeddingRun, data: Ingested, fingerprint: str) -> None:
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
    run: EmbeddingRun
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


@lru_cache(maxsize=2)
def _loaded(day: Day, fingerprint: str) -> Embedder:
    return Embedder.load(day.storage, fingerprint)


def _fit(day: Day, fingerprint: str) -> None:
    settings = settings_of(day)
    items = Items.of(read_catalogue(day), settings.price)
    table = pa.concat_tables([histories(day, shard) for shard in range(day.config.data.shards)]).combine_chunks()
    taught = lessons(settings, table, items, day.event_weights, day.cut)
    Embedder.of(settings, train(settings, taught, items)).save(day.storage, fingerprint)
