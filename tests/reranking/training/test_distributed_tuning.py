"""Ray Train around the loop, with real workers and real failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.util.queue
from safetensors.numpy import load_file
from tuning_cases import as_table, fetch, pairs_shop, settings, spec

from rayrec.errors import DataError
from rayrec.numerics.collectives import Worker
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.llm_tuning import tune
from rayrec.ray_support.training_workers import ReportCallback, WorkerGroup, run
from rayrec.reranking.training.tuner import tune_on_worker

HALF = WorkerGroup(count=2, cpus=0.5)


@pytest.mark.usefixtures("local_ray")
def test_two_workers_give_the_weights_of_one_up_to_rounding(tmp_path: Path) -> None:
    one, two = (spec(tmp_path / name, pairs_shop(60), settings=settings(epochs=2)) for name in "ab")
    alone = tune_on_worker(one, Worker(), lambda row: None)
    (card,) = tune([two], HALF)
    assert [round(row["loss"], 3) for row in card.curve] == [round(row["loss"], 3) for row in alone.curve]
    left, right = (load_file(Path(fetch(given).folder) / "model.safetensors") for given in (one, two))
    for name in left:
        np.testing.assert_allclose(left[name], right[name], atol=1e-3)


@pytest.mark.usefixtures("local_ray")
def test_two_workers_use_the_selection_of_one(tmp_path: Path) -> None:
    given = settings(data_selection="influence", selection_budget=0.25, epochs=2)
    one, two = (spec(tmp_path / name, pairs_shop(60), settings=given) for name in "ab")
    alone = tune_on_worker(one, Worker(), lambda row: None)
    (card,) = tune([two], HALF)
    assert card.data_selection == alone.data_selection
    assert [row["tokens"] for row in card.curve] == [row["tokens"] for row in alone.curve]
    assert [round(row["loss"], 3) for row in card.curve] == [round(row["loss"], 3) for row in alone.curve]


@pytest.mark.usefixtures("local_ray")
def test_user_errors_are_readable_and_not_retried(tmp_path: Path) -> None:
    nothing = as_table(Ragged.from_lengths(np.arange(4), [1, 1, 1, 1]), [0, 1, 2, 3])
    with pytest.raises(DataError, match="nothing to tune"):
        tune([spec(tmp_path, nothing)], WorkerGroup())


@pytest.mark.usefixtures("local_ray")
def test_work_continues_without_the_progress_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, queue, done = {}, ray.util.queue.Queue, tmp_path / "done"

    def lost(actor_options: dict[str, Any]) -> ray.util.queue.Queue:
        options.update(actor_options)
        made = queue(actor_options=actor_options)
        ray.kill(made.actor)
        return made

    monkeypatch.setattr(ray.util.queue, "Queue", lost)
    run(lambda worker, report: (report({"loss": 1.0}, "a line"), done.touch()), WorkerGroup(restarts=0), "lost")
    assert done.exists()
    assert options["scheduling_strategy"].node_id == ray.get_runtime_context().get_node_id()


@pytest.mark.usefixtures("local_ray")
def test_workers_agree_on_what_the_first_one_found(tmp_path: Path) -> None:
    def look(worker: Worker, report: ReportCallback) -> None:
        found = worker.broadcast_first(None if worker.rank else b"checkpoint")
        (tmp_path / f"{worker.rank} of {worker.world_size}").write_bytes(found or b"nothing")

    run(look, HALF, "agree")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "0 of 2": b"checkpoint",
        "1 of 2": b"checkpoint",
    }
