"""What embeddings are called, and how more is published beside them, from the same model: see `publish_beside`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from rayrec.embeddings.embedder import KIND, Embedder
from rayrec.hashing import digest, ordered
from rayrec.pipeline.carry import carry, over_units, results
from rayrec.pipeline.day import Day
from rayrec.pipeline.embed_training import of_vectors, settings_of
from rayrec.progress import Progress
from rayrec.publishing.products import Product
from rayrec.publishing.records import Manifest, Provenance, RunRecord
from rayrec.publishing.run import Publication, Run
from rayrec.publishing.versions import versions

_IN_ORDER = ("data.events", "embeddings.sources", "embeddings.instructions")
"""Where the order of keys is part of what is embedded."""


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


def record_beside(day: Day, section: str, arms: tuple[str, ...]) -> RunRecord:
    """As `record_of`, of what a section of `embeddings` asks for: other settings there make another run."""
    vectors = record_of(day)
    meaning = {**vectors.meaning, section: getattr(settings_of(day), section).model_dump(mode="json")}
    fingerprint = digest(ordered(meaning, *_IN_ORDER))
    return replace(vectors, meaning=meaning, fingerprint=fingerprint, arms=arms)


@dataclass(frozen=True)
class BesideSpec:
    """What such a stage is told."""

    day: Day
    run: Run
    fingerprint: str  # of the model

    def __hash__(self) -> int:
        return hash((self.day, self.run.record.run_id, self.fingerprint))


def publish_beside(
    day: Day,
    manifest: Manifest,
    record: RunRecord,
    product: Product,
    stage: Callable[[BesideSpec], Any],
    verb: str,
    before: Callable[[], object] | None = None,
) -> Publication:
    """Publish more of a day whose embeddings are in `manifest`, shard by shard, resumed like them.

    `stage(spec)` makes the stage: called with a shard's number, it commits the shard's tables. `before`: what it needs
    to be there; called where there is anything to do.
    """
    opened = Run.open(day.storage, record, product)
    if opened.published is not None:
        return Publication("published", opened.published)
    done = opened.receipts()
    to_do = [shard for shard in range(manifest.shards) if shard not in done]
    if to_do and before is not None:
        before()
    with Progress(verb, manifest.shards, unit="shards") as progress:
        progress.advance(len(done))
        if to_do:
            spec = BesideSpec(day, opened, manifest.models[KIND])
            for _ in results(carry(over_units(to_do), stage, spec, concurrency=day.config.resources.score_tasks)):
                progress.advance(1)
    return opened.publish(Provenance(users_in=manifest.users.published, models=manifest.models, versions=versions()))


@lru_cache(maxsize=2)
def embedder_of(day: Day, fingerprint: str) -> Embedder:
    return Embedder.load(day.storage, fingerprint)
