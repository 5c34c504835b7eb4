"""Workers and checkpoints: how many there are, and whether one dies, changes nothing."""

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
from rayrec.embeddings.examples import Examples, batches
from rayrec.embeddings.lessons import lessons
from rayrec.embeddings.model import UserModel, build
from rayrec.embeddings.training import Trained, train
from rayrec.embeddings.training_loop import Loop
from rayrec.embeddings.views import FIELDS, Scales, Viewer
from rayrec.embeddings.vocabulary import Vocabulary
from rayrec.errors import DataError
from rayrec.storage import Storage
from rayrec.workers import ALONE, Report, Worker, Workers, run

LONG = settings(
    training={"cuts": 2, "every_days": 10.0, "epochs": 3, "patience": 3, "batch_users": 15, "held_out": 0.2}
)


class Killed(Exception):
    pass


def learned(checkpoint: bytes | None = None, stop_after: int | None = None) -> tuple[Trained, list[bytes]]:
    kept: list[bytes] = []

    def after_epoch(loop: Loop) -> None:
        kept.append(loop.checkpoint())
        if loop.progress.epoch == stop_after:
            raise Killed

    taught = lessons(LONG, histories(), items(), WEIGHTS, NOW)
    try:
        return train(LONG, taught, items(), after_epoch, checkpoint=checkpoint), kept
    except Killed:
        return None, kept  # type: ignore[return-value]


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_training_that_was_killed_ends_with_the_bits_of_one_that_was_not(epoch: int) -> None:
    whole, _ = learned()
    _, kept = learned(stop_after=epoch)
    again, rest = learned(checkpoint=kept[-1])
    assert len(rest) == 3 - epoch
    assert again.curve == whole.curve
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


@pytest.mark.parametrize("data", [b"", b"not safetensors", None])
def test_a_checkpoint_that_is_none_is_refused_in_words(data: bytes | None) -> None:
    if data is None:
        other = settings(sources={"profile": {"kind": "profile"}})
        taught, kept = lessons(other, histories(), items(), WEIGHTS, NOW), []
        train(other, taught, items(), lambda loop: kept.append(loop.checkpoint()))
        data = kept[0]
    with pytest.raises(DataError, match="checkpoint"):
        learned(checkpoint=data)


def small() -> tuple[UserModel, list[Examples]]:
    taught = lessons(LONG, histories(), items(), WEIGHTS, NOW)
    said = sorted({text for lesson in taught for one in lesson.answers for text in one.text})
    vocabulary = Vocabulary.learn(items().text, [*said, "again lamps"], FIELDS, items().item_id, 1)
    viewer = Viewer(LONG, vocabulary, Scales.learn([lesson.before for lesson in taught], items()), items())
    found = [Examples.of(LONG, lesson, viewer(lesson.before), vocabulary.ids) for lesson in taught]
    return build(LONG.model, tuple(LONG.sources), vocabulary.size, vocabulary.spoken, 0), found


@pytest.mark.parametrize("world", [2, 3, 17])  # of 15 users: some workers have none
def test_the_workers_gradients_add_up_to_that_of_the_whole_batch(world: int) -> None:
    model, found = small()
    one, users = next(batches(found, 15, np.random.default_rng(0)))
    gradient, loss = [], []
    for workers in ([ALONE], [Worker(rank, world) for rank in range(world)]):
        model.zero_grad()
        total = 0.0
        for worker in workers:
            torch.manual_seed(3)  # of what is left out at random
            part = Loop(model, found, LONG.training, worker).loss(one, users, np.random.default_rng(1))
            if part.requires_grad:
                part.backward()
            total += float(part.detach())
        loss.append(total)
        gradient.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert loss[0] == pytest.approx(loss[1], abs=1e-5)
    assert gradient[0].keys() == gradient[1].keys() == dict(model.named_parameters()).keys()
    for name, whole in gradient[0].items():
        torch.testing.assert_close(gradient[1][name], whole, rtol=1e-4, atol=1e-5, msg=name)


def in_a_group(root: str, die_after: int, worker: Worker, report: Report) -> None:
    storage = Storage(root)
    data = storage.read("checkpoint") if storage.exists("checkpoint") else None

    def after_epoch(loop: Loop) -> None:
        if worker.rank == 0:
            storage.write("checkpoint", loop.checkpoint())
            if data is None and loop.progress.epoch == die_after:
                os._exit(1)
        report(loop.progress.curve[-1], "")

    taught = lessons(LONG, histories(), items(), WEIGHTS, NOW)
    found = train(LONG, taught, items(), after_epoch, worker=worker, checkpoint=data)
    if worker.rank == 0:
        Embedder.of(LONG, found).save(storage, "f")


@pytest.fixture
def by_value() -> None:
    """Workers cannot import test modules."""
    for name in (__name__, "small_users"):
        cloudpickle.register_pickle_by_value(sys.modules[name])


@pytest.mark.usefixtures("local_ray", "by_value")
def test_two_workers_of_which_one_dies_end_as_one_process_that_did_not(tmp_path: Path) -> None:
    run(partial(in_a_group, str(tmp_path), 1), Workers(2, 0.5), "train")
    found, alone = Embedder.load(Storage(str(tmp_path)), "f"), trained(LONG)
    views = alone.viewer(items())(events())
    texts = ["Will this person buy again?", "Does this person like lamps?", ""]
    np.testing.assert_allclose(found.embed(views, texts), alone.embed(views, texts), atol=1e-5)
    np.testing.assert_allclose(
        [row["loss"] for row in found.card["curve"]], [row["loss"] for row in alone.card["curve"]], atol=1e-5
    )


@pytest.mark.usefixtures("local_ray", "by_value")
def test_what_the_user_can_put_right_comes_back_from_a_group_in_words() -> None:
    with pytest.raises(DataError, match="nothing to train"):
        run(partial(fails, "nothing to train"), Workers(), "train")


def fails(why: str, worker: Worker, report: Report) -> None:
    raise DataError(why, do="something else")
