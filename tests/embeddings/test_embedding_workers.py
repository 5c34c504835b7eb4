"""Training with several workers and checkpoints: neither their number nor a failure changes the result."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ray import cloudpickle
from small_users import NOW, WEIGHTS, events, histories, items, settings, trained

from rayrec.embeddings import Embedder
from rayrec.embeddings.embedder_training import TrainedModel, train
from rayrec.embeddings.embedder_training_loop import TrainingLoop
from rayrec.embeddings.source_views import FIELDS, FeatureScaler, ViewBuilder
from rayrec.embeddings.training_windows import TrainingExamples, batches, training_windows
from rayrec.embeddings.user_model import UserModel, build
from rayrec.embeddings.word_vocabulary import Vocabulary
from rayrec.errors import DataError
from rayrec.numerics.collectives import SINGLE_WORKER, Worker
from rayrec.ray_support.training_workers import ReportCallback, WorkerGroup, run
from rayrec.storage import Storage

LONG = settings(
    training={
        "cutoffs": 2,
        "cutoff_interval_days": 10.0,
        "epochs": 3,
        "patience": 3,
        "batch_users": 15,
        "validation_share": 0.2,
    }
)


class Killed(Exception):
    pass


def learned(checkpoint: bytes | None = None, stop_after: int | None = None) -> tuple[TrainedModel, list[bytes]]:
    kept: list[bytes] = []

    def after_epoch(loop: TrainingLoop) -> None:
        kept.append(loop.checkpoint())
        if loop.progress.epoch == stop_after:
            raise Killed

    windows = training_windows(LONG, histories(), items(), WEIGHTS, NOW)
    try:
        return train(LONG, windows, items(), after_epoch, checkpoint=checkpoint), kept
    except Killed:
        return None, kept  # type: ignore[return-value]


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_resumed_training_is_bit_identical_to_an_uninterrupted_one(epoch: int) -> None:
    whole, _ = learned()
    _, kept = learned(stop_after=epoch)
    again, rest = learned(checkpoint=kept[-1])
    assert len(rest) == 3 - epoch
    assert again.curve == whole.curve
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


@pytest.mark.parametrize("data", [b"", b"not safetensors", None])
def test_an_invalid_checkpoint_is_an_error(data: bytes | None) -> None:
    if data is None:
        other = settings(views={"profile": {"kind": "profile"}})
        windows, kept = training_windows(other, histories(), items(), WEIGHTS, NOW), []
        train(other, windows, items(), lambda loop: kept.append(loop.checkpoint()))
        data = kept[0]
    with pytest.raises(DataError, match="checkpoint"):
        learned(checkpoint=data)


def small() -> tuple[UserModel, list[TrainingExamples]]:
    windows = training_windows(LONG, histories(), items(), WEIGHTS, NOW)
    said = sorted({text for lesson in windows for one in lesson.answers for text in one.text})
    vocabulary = Vocabulary.learn(items().text, [*said, "again lamps"], FIELDS, items().item_id, 1)
    viewer = ViewBuilder(LONG, vocabulary, FeatureScaler.learn([lesson.before for lesson in windows], items()), items())
    found = [TrainingExamples.of(LONG, lesson, viewer(lesson.before), vocabulary.ids) for lesson in windows]
    return build(LONG.model, tuple(LONG.views), vocabulary.size, vocabulary.lm_size, 0), found


@pytest.mark.parametrize("world", [2, 3, 17])  # of 15 users: some workers have none
def test_the_workers_gradients_sum_to_that_of_the_whole_batch(world: int) -> None:
    model, found = small()
    one, users = next(batches(found, 15, np.random.default_rng(0)))
    gradient, loss = [], []
    for workers in ([SINGLE_WORKER], [Worker(rank, world) for rank in range(world)]):
        model.zero_grad()
        total = 0.0
        for worker in workers:
            torch.manual_seed(3)  # seed of the dropout
            part = TrainingLoop(model, found, LONG.training, worker).loss(one, users, np.random.default_rng(1))
            if part.requires_grad:
                part.backward()
            total += float(part.detach())
        loss.append(total)
        gradient.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert loss[0] == pytest.approx(loss[1], abs=1e-5)
    assert gradient[0].keys() == gradient[1].keys() == dict(model.named_parameters()).keys()
    for name, whole in gradient[0].items():
        torch.testing.assert_close(gradient[1][name], whole, rtol=1e-4, atol=1e-5, msg=name)


def in_a_group(root: str, die_after: int, worker: Worker, report: ReportCallback) -> None:
    storage = Storage(root)
    data = storage.read("checkpoint") if storage.exists("checkpoint") else None

    def after_epoch(loop: TrainingLoop) -> None:
        if worker.rank == 0:
            storage.write("checkpoint", loop.checkpoint())
            if data is None and loop.progress.epoch == die_after:
                os._exit(1)
        report(loop.progress.curve[-1], "")

    windows = training_windows(LONG, histories(), items(), WEIGHTS, NOW)
    found = train(LONG, windows, items(), after_epoch, worker=worker, checkpoint=data)
    if worker.rank == 0:
        Embedder.of(LONG, found).save(storage, "f")


@pytest.fixture
def by_value() -> None:
    """Pickle by value, because workers cannot import test modules."""
    for name in (__name__, "small_users"):
        cloudpickle.register_pickle_by_value(sys.modules[name])


@pytest.mark.usefixtures("local_ray", "by_value")
def test_two_workers_with_a_failure_give_the_result_of_one_process(tmp_path: Path) -> None:
    run(partial(in_a_group, str(tmp_path), 1), WorkerGroup(2, 0.5), "train")
    found, alone = Embedder.load(Storage(str(tmp_path)), "f"), trained(LONG)
    views = alone.view_builder(items())(events())
    texts = ["Will this person buy again?", "Does this person like lamps?", ""]
    np.testing.assert_allclose(found.embed(views, texts), alone.embed(views, texts), atol=1e-5)
    np.testing.assert_allclose(
        [row["loss"] for row in found.card["curve"]], [row["loss"] for row in alone.card["curve"]], atol=1e-5
    )
