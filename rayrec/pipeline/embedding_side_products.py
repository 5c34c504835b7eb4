"""What embeddings are called, and how more is published beside them, from the same model: see `publish_derived`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from rayrec.embeddings.embedder import KIND, Embedder
from rayrec.monitoring.progress import Progress
from rayrec.numerics.hashing import digest, with_key_order
from rayrec.pipeline.embedding_training import settings_of, vector_settings
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing.code_version import package_versions
from rayrec.publishing.published_tables import PublishedTable
from rayrec.publishing.publishing_run import PublishingRun, PublishResult
from rayrec.publishing.records import Manifest, Provenance, RunRecord
from rayrec.ray_support.stage_runner import WorkItem, append_stage, run_pending

_IN_ORDER = ("data.events", "embeddings.sources", "embeddings.instructions")
"""Where the order of keys is part of what is embedded."""


def record_of(context: RunContext) -> RunRecord:
    """What publishing calls this run: only what can change a vector makes it another one."""
    settings = settings_of(context)
    data = context.config.data.model_dump(mode="json", exclude={"root"})
    fingerprinted_settings = {"embeddings": vector_settings(settings), "data": data}
    return RunRecord(
        date=context.date,
        fingerprint=digest(with_key_order(fingerprinted_settings, *_IN_ORDER)),
        fingerprinted_settings=fingerprinted_settings,
        inputs=context.inputs,
        shards=context.config.data.shards,
        arms=tuple(settings.instructions),
        code_version=context.code_version,
    )


def derived_record(context: RunContext, section: str, arms: tuple[str, ...]) -> RunRecord:
    """As `record_of`, of what a section of `embeddings` asks for: other settings there make another run."""
    vectors = record_of(context)
    fingerprinted_settings = {
        **vectors.fingerprinted_settings,
        section: getattr(settings_of(context), section).model_dump(mode="json"),
    }
    fingerprint = digest(with_key_order(fingerprinted_settings, *_IN_ORDER))
    return replace(vectors, fingerprinted_settings=fingerprinted_settings, fingerprint=fingerprint, arms=arms)


@dataclass(frozen=True)
class DerivedSpec:
    """What such a stage is told."""

    context: RunContext
    run: PublishingRun
    fingerprint: str  # of the model

    def __hash__(self) -> int:
        return hash((self.context, self.run.record.run_id, self.fingerprint))


def publish_derived(
    context: RunContext,
    manifest: Manifest,
    record: RunRecord,
    product: PublishedTable,
    stage: Callable[[DerivedSpec], Any],
    verb: str,
    before: Callable[[], object] | None = None,
) -> PublishResult:
    """Publish more of a day whose embeddings are in `manifest`, shard by shard, resumed like them.

    `stage(spec)` makes the stage: called with a shard's number, it commits the shard's tables. `before`: what it needs
    to be there; called where there is anything to do.
    """
    opened = PublishingRun.open(context.storage, record, product)
    if opened.published is not None:
        return PublishResult("published", opened.published)
    done = opened.receipts()
    pending = [shard for shard in range(manifest.shards) if shard not in done]
    if pending and before is not None:
        before()
    with Progress(verb, manifest.shards, unit="shards") as progress:
        progress.advance(len(done))
        spec, at_once = DerivedSpec(context, opened, manifest.models[KIND]), context.config.resources.score_tasks
        run_pending(
            [WorkItem(context.cutoff, shard) for shard in pending],
            lambda dataset: append_stage(dataset, stage, spec, concurrency=at_once),
            progress.advance,
        )
    return opened.publish(
        Provenance(users_in=manifest.users.published, models=manifest.models, versions=package_versions())
    )


@lru_cache(maxsize=2)
def embedder_of(context: RunContext, fingerprint: str) -> Embedder:
    return Embedder.load(context.storage, fingerprint)
