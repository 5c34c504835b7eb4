"""The model of embeddings as of a date: found by its fingerprint, or trained by a group of workers.

Killed, the training goes on from its last epoch: the checkpoint lies in the folder of the model-to-be.
"""

from __future__ import annotations

import logging
from functools import lru_cache, partial
from typing import Any

from rayrec import artefacts
from rayrec.cluster import placeable_cpus
from rayrec.config.embeddings import EmbeddingModel, Embeddings
from rayrec.embeddings.embedder import KIND, Embedder
from rayrec.embeddings.events import Items
from rayrec.embeddings.language import base_digest
from rayrec.embeddings.lessons import askable, lessons
from rayrec.embeddings.training import train
from rayrec.embeddings.training_loop import Loop
from rayrec.errors import ConfigError, MissingFileError
from rayrec.hashing import digest, ordered
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import histories, read_catalogue
from rayrec.workers import Report, Worker, Workers, run

_LOG = logging.getLogger(__name__)


def settings_of(day: Day) -> Embeddings:
    """Raises ConfigError where the config has none."""
    if day.config.embeddings is None:
        raise ConfigError(
            "the config does not say what to embed",
            where="embeddings",
            do="add the section; conf/online_retail.yaml has one to start from",
        )
    return day.config.embeddings


def of_vectors(settings: Embeddings) -> dict[str, Any]:
    """The settings that can change a vector, as JSON content; a local checkpoint is known by its content."""
    content = settings.model_dump(mode="json", exclude={"neighbours", "influence"})
    content["model"]["base"] = _base_digest(settings.model)
    return content


def model_fingerprint(day: Day) -> str:
    """Of everything that can change the weights: not of instructions that are asked but not taught, nor of what their
    vectors do without."""
    settings = of_vectors(settings_of(day))
    taught = {name: _taught(one) for name, one in settings["instructions"].items() if one["answer"]}
    content = ordered(settings | {"instructions": taught}, "instructions", "sources")  # an order is part of a model
    return digest([content, day.data_fingerprint, day.cut])


def fit(day: Day) -> str:
    """The fingerprint of the day's model, trained if it is not there yet."""
    fingerprint = model_fingerprint(day)
    if not artefacts.exists(day.storage, KIND, fingerprint):
        resources = day.config.resources
        workers = Workers(resources.tune_workers, placeable_cpus(resources.tune_num_cpus))
        run(partial(fit_here, day, fingerprint), workers, "train")
    return fingerprint


def fit_here(day: Day, fingerprint: str, worker: Worker, report: Report) -> None:
    """One worker's part of the training; the first one saves the model, unless another run was faster."""
    if worker.agreed(artefacts.exists(day.storage, KIND, fingerprint)):
        return
    settings, checkpoint = settings_of(day), f"{artefacts.FOLDER}/{KIND}/{fingerprint}/checkpoint.safetensors"
    data = worker.agreed(_stopped(day, checkpoint) if worker.rank == 0 else None)
    items = Items.of(read_catalogue(day), settings.price)
    tables = (histories(day, shard) for shard in range(day.config.data.shards))
    table = askable(settings, tables, day.event_weights, day.cut)
    taught = lessons(settings, table, items, day.event_weights, day.cut)

    def after_epoch(loop: Loop) -> None:
        if worker.rank == 0:
            day.storage.write(checkpoint, loop.checkpoint())
        row = loop.progress.curve[-1]
        judged = f"  validation {row['validation']:.4f}" if "validation" in row else ""
        line = f"train      epoch {row['epoch']:.0f} / {settings.training.epochs}  loss {row['loss']:.4f}{judged}"
        report(row, line)

    trained = train(settings, taught, items, after_epoch, worker=worker, checkpoint=data)
    if worker.rank == 0:
        Embedder.of(settings, trained).save(day.storage, fingerprint)
        day.storage.delete(checkpoint)


def _stopped(day: Day, checkpoint: str) -> bytes | None:
    """Where an earlier run stood, if one was stopped."""
    try:
        data = day.storage.read(checkpoint)
    except MissingFileError:
        return None
    _LOG.warning("train: goes on from a run that was stopped")
    return data


def _taught(instruction: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in instruction.items() if key != "leave_out"}


@lru_cache(maxsize=1)
def _base_digest(model: EmbeddingModel) -> str:
    return base_digest(model)
