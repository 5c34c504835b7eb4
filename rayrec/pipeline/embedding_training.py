"""The embedding model as of a date: reused by fingerprint, or trained by a group of workers.

A killed training resumes after its last epoch, from a checkpoint in the model's folder.
"""

from __future__ import annotations

import logging
from functools import lru_cache, partial
from typing import Any

from rayrec.config.embeddings_section import EmbeddingModel, Embeddings
from rayrec.embeddings.embedder import KIND, Embedder
from rayrec.embeddings.embedder_training import train
from rayrec.embeddings.embedder_training_loop import TrainingLoop
from rayrec.embeddings.language_model import base_digest
from rayrec.embeddings.training_windows import sample_training_users, training_windows
from rayrec.embeddings.user_events import Items
from rayrec.errors import ConfigError, MissingFileError
from rayrec.monitoring.progress import format_epoch
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import digest, with_key_order
from rayrec.pipeline.interaction_ingest import histories, read_catalogue
from rayrec.pipeline.placement import training_workers
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support.training_workers import ReportCallback, run
from rayrec.storage import artifacts, layout

_LOG = logging.getLogger(__name__)


def settings_of(context: RunContext) -> Embeddings:
    """The section `embeddings`. Raises ConfigError if the config has none."""
    if context.config.embeddings is None:
        raise ConfigError(
            "the config has no section for embeddings",
            where="embeddings",
            hint="add the section; conf/online_retail.yaml has one to start from",
        )
    return context.config.embeddings


def vector_settings(settings: Embeddings) -> dict[str, Any]:
    """The settings that can change a vector, as JSON content, with the digest of a local base checkpoint."""
    content = settings.model_dump(mode="json", exclude={"neighbours", "influence"})
    content["model"]["base"] = _base_digest(settings.model)
    return content


def model_fingerprint(context: RunContext) -> str:
    """Fingerprint of what can change the weights: not `max_removed_share`, nor instructions without training data."""
    settings = vector_settings(settings_of(context))
    trained = {
        name: {key: value for key, value in instruction.items() if key != "max_removed_share"}
        for name, instruction in settings["instructions"].items()
        if instruction["answer"]
    }
    # The order of instructions and of sources is part of a model.
    content = with_key_order(settings | {"instructions": trained}, "instructions", "views")
    return digest([content, context.data_fingerprint, context.cutoff])


def fit(context: RunContext) -> str:
    """Train the date's model unless it exists, and return its fingerprint."""
    fingerprint = model_fingerprint(context)
    if not artifacts.exists(context.storage, KIND, fingerprint):
        resources = context.config.resources
        workers = training_workers(resources, 0)
        run(partial(train_on_worker, context, fingerprint), workers, "train")
    return fingerprint


def train_on_worker(context: RunContext, fingerprint: str, worker: Worker, report: ReportCallback) -> None:
    """Run one worker's part of the training. The first worker saves the model, unless another run already has."""
    if worker.broadcast_first(artifacts.exists(context.storage, KIND, fingerprint)):
        return
    settings, checkpoint = settings_of(context), layout.training_checkpoint_path(layout.model_folder(KIND, fingerprint))
    data = worker.broadcast_first(_resumed(context, checkpoint) if worker.rank == 0 else None)
    items = Items.of(read_catalogue(context), settings.price)
    tables = (histories(context, shard) for shard in range(context.config.data.shard_count))
    table = sample_training_users(settings, tables, context.event_weights, context.cutoff)
    windows = training_windows(settings, table, items, context.event_weights, context.cutoff)

    def after_epoch(loop: TrainingLoop) -> None:
        if worker.rank == 0:
            context.storage.write(checkpoint, loop.checkpoint())
        row = loop.progress.curve[-1]
        report(row, f"train      {format_epoch(row, settings.training.epochs)}")

    trained = train(settings, windows, items, after_epoch, worker=worker, checkpoint=data)
    if worker.rank == 0:
        Embedder.of(settings, trained).save(context.storage, fingerprint)
        context.storage.delete(checkpoint)


def _resumed(context: RunContext, checkpoint: str) -> bytes | None:
    """The checkpoint of an earlier, killed run, if any."""
    try:
        data = context.storage.read(checkpoint)
    except MissingFileError:
        return None
    _LOG.warning("train: resumes a killed training")
    return data


@lru_cache(maxsize=1)
def _base_digest(model: EmbeddingModel) -> str:
    return base_digest(model)
