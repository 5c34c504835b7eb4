"""The model of embeddings as of a date: found by its fingerprint, or trained by a group of workers.

Killed, the training goes on from its last epoch: the checkpoint lies in the folder of the model-to-be.
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
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import digest, with_key_order
from rayrec.pipeline.interaction_ingest import histories, read_catalogue
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support.cluster import placeable_cpus
from rayrec.ray_support.training_workers import ReportCallback, WorkerGroup, run
from rayrec.storage import artifacts, layout

_LOG = logging.getLogger(__name__)


def settings_of(context: RunContext) -> Embeddings:
    """Raises ConfigError where the config has none."""
    if context.config.embeddings is None:
        raise ConfigError(
            "the config does not say what to embed",
            where="embeddings",
            hint="add the section; conf/online_retail.yaml has one to start from",
        )
    return context.config.embeddings


def vector_settings(settings: Embeddings) -> dict[str, Any]:
    """The settings that can change a vector, as JSON content; a local checkpoint is known by its content."""
    content = settings.model_dump(mode="json", exclude={"neighbours", "influence"})
    content["model"]["base"] = _base_digest(settings.model)
    return content


def model_fingerprint(context: RunContext) -> str:
    """Of everything that can change the weights: not of instructions that are asked but not taught, nor of what their
    vectors do without."""
    settings = vector_settings(settings_of(context))
    windows = {name: _taught(one) for name, one in settings["instructions"].items() if one["answer"]}
    content = with_key_order(
        settings | {"instructions": windows}, "instructions", "sources"
    )  # an order is part of a model
    return digest([content, context.data_fingerprint, context.cutoff])


def fit(context: RunContext) -> str:
    """The fingerprint of the day's model, trained if it is not there yet."""
    fingerprint = model_fingerprint(context)
    if not artifacts.exists(context.storage, KIND, fingerprint):
        resources = context.config.resources
        workers = WorkerGroup(resources.tune_workers, placeable_cpus(resources.tune_num_cpus))
        run(partial(train_on_worker, context, fingerprint), workers, "train")
    return fingerprint


def train_on_worker(context: RunContext, fingerprint: str, worker: Worker, report: ReportCallback) -> None:
    """One worker's part of the training; the first one saves the model, unless another run was faster."""
    if worker.broadcast_first(artifacts.exists(context.storage, KIND, fingerprint)):
        return
    settings, checkpoint = settings_of(context), layout.training_checkpoint_path(layout.model_folder(KIND, fingerprint))
    data = worker.broadcast_first(_stopped(context, checkpoint) if worker.rank == 0 else None)
    items = Items.of(read_catalogue(context), settings.price)
    tables = (histories(context, shard) for shard in range(context.config.data.shards))
    table = sample_training_users(settings, tables, context.event_weights, context.cutoff)
    windows = training_windows(settings, table, items, context.event_weights, context.cutoff)

    def after_epoch(loop: TrainingLoop) -> None:
        if worker.rank == 0:
            context.storage.write(checkpoint, loop.checkpoint())
        row = loop.progress.curve[-1]
        judged = f"  validation {row['validation']:.4f}" if "validation" in row else ""
        line = f"train      epoch {row['epoch']:.0f} / {settings.training.epochs}  loss {row['loss']:.4f}{judged}"
        report(row, line)

    trained = train(settings, windows, items, after_epoch, worker=worker, checkpoint=data)
    if worker.rank == 0:
        Embedder.of(settings, trained).save(context.storage, fingerprint)
        context.storage.delete(checkpoint)


def _stopped(context: RunContext, checkpoint: str) -> bytes | None:
    """Where an earlier run stood, if one was stopped."""
    try:
        data = context.storage.read(checkpoint)
    except MissingFileError:
        return None
    _LOG.warning("train: goes on from a run that was stopped")
    return data


def _taught(instruction: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in instruction.items() if key != "leave_out"}


@lru_cache(maxsize=1)
def _base_digest(model: EmbeddingModel) -> str:
    return base_digest(model)
