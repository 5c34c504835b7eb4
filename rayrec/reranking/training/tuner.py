"""The tuner of one worker: prepare, select training data, run the loop, publish the checkpoint.

`rayrec.pipeline.distributed_tuning` runs it in a group of workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from rayrec.numerics.collectives import Worker
from rayrec.reranking.item_token import item_lm, tuned_checkpoint
from rayrec.reranking.item_token.tuned_checkpoint import ModelCard
from rayrec.reranking.training import loop_checkpoint
from rayrec.reranking.training.data_selection import DataSelection, select_users
from rayrec.reranking.training.tuning_loop import TuningLoop
from rayrec.reranking.training.tuning_preparation import PreparedTuning, TuningSpec, prepare
from rayrec.storage import Storage, layout, temporary_folders
from rayrec.storage.checkpoint_source import is_remote, require_same

_LOG = logging.getLogger(__name__)


def tune_on_worker(spec: TuningSpec, worker: Worker, report: Callable[[Mapping[str, float]], None]) -> ModelCard:
    """Run one worker's part; returns the card of the published checkpoint (of this run, or of a concurrent one).

    `report` receives each epoch's row of the loss curve. Raises DataError without training data, ConfigError for
    invalid model settings.
    """
    storage = Storage(spec.root)
    if worker.broadcast_first(tuned_checkpoint.exists(storage, spec.path)):
        return tuned_checkpoint.read_model_card(storage, spec.path)
    if spec.base is not None and is_remote(spec.settings.base):
        require_same(spec.settings.base, item_lm.base_digest(spec.settings.base), spec.base, "tuning.base")
    with temporary_folders.temporary_folder() as folder:
        prepared = prepare(spec, storage, folder)
        task, selection = prepared.task, _selection(prepared, worker)
        if selection is not None:
            task = replace(task, events=selection.select_events(task.events))
        loop = TuningLoop(prepared.initial_model(), prepared.layout, task, worker)
        _resume(loop, storage, spec, worker)
        loop.run(lambda state: _after_epoch(state, storage, spec, worker, report))
        card = _card(prepared, loop, selection)
        if worker.rank == 0:
            loop.model.to("cpu").export(folder)
            tuned_checkpoint.publish(folder, card, storage, spec.path)
            storage.delete(layout.training_checkpoint_path(spec.path))
            card = tuned_checkpoint.read_model_card(storage, spec.path)
    return worker.broadcast_first(card)


def _selection(prepared: PreparedTuning, worker: Worker) -> DataSelection | None:
    """The selected training users; None: all. All workers compute it; the first worker's result is used, should
    rounding differ."""
    task = prepared.task
    if task.settings.data_selection == "all":
        return None
    selection = select_users(
        task.events, prepared.initial_model, prepared.layout, task.settings, task.now, worker.device
    )
    if worker.world_size > 1:
        weights = torch.from_numpy(selection.weights).to(worker.device)
        torch.distributed.broadcast(weights, 0)
        selection = replace(selection, weights=weights.cpu().numpy())
    if worker.rank == 0:
        _LOG.info("tune: %s selected %d of %d users", selection.method, selection.users, selection.of)
    return selection


def _resume(loop: TuningLoop, storage: Storage, spec: TuningSpec, worker: Worker) -> None:
    data = loop_checkpoint.stored(storage, spec.path, worker)
    if data is not None:
        loop.resume(data)
        _LOG.warning("tune: resuming after epoch %d of a run that was stopped", loop.progress.epoch)


def _after_epoch(
    loop: TuningLoop, storage: Storage, spec: TuningSpec, worker: Worker, report: Callable[[Mapping[str, float]], None]
) -> None:
    if worker.rank == 0:
        storage.write(layout.training_checkpoint_path(spec.path), loop.checkpoint())
    report(loop.progress.curve[-1])


def _card(prepared: PreparedTuning, loop: TuningLoop, selection: DataSelection | None) -> ModelCard:
    spec, augmentation, word_filter = prepared.spec, prepared.task.augmentation, prepared.word_filter
    curve = tuple(
        {key: value for key, value in row.items() if key not in ("seconds", "planned")} for row in loop.progress.curve
    )
    return ModelCard(
        vocabulary=prepared.layout.vocabulary,
        item_ids=prepared.item_ids,
        events=spec.settings.events,
        base=item_lm.base_digest(spec.settings.base),
        dtype=str(loop.model.causal.dtype).removeprefix("torch."),
        settings=spec.settings.model_dump(mode="json"),
        curve=curve,
        epochs=loop.progress.best_epoch or loop.progress.epoch,
        known_words=None if word_filter is None else tuple(sorted(word_filter.words)),
        facets=None if augmentation is None else augmentation.simulator.facets.scheme,
        data_selection=None if selection is None else selection.as_json(),
        logit_scale=loop.model.logit_scale,
        own_vectors=prepared.tuned,
        ancestors=_ancestry(prepared),
        shift=prepared.shift,
    )


def _ancestry(prepared: PreparedTuning) -> tuple[str, ...]:
    if prepared.ancestor is None or prepared.spec.ancestor is None:
        return ()
    return (prepared.spec.ancestor.path.rsplit("/", 1)[1], *prepared.ancestor.card.ancestors)
