"""Denoising and retrieval in actors that share a GPU, on a real Ray cluster. Its GPU is a number: torch finds none, so
the actors compute on the CPU, and what they compute is the same bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import USERS, differences, make

from rayrec import read_slates
from rayrec.pipeline import daily_run

WITHOUT_LLM = (
    "arms.variants={control: {denoise: {method: none}, rerank: {method: none}}, llm: {rerank: {method: none}}}"
)
ON_GPU = ("resources.denoise_num_gpus=0.5", "resources.retrieve_num_gpus=0.5", "resources.retrieve_actors=[1, 2]")


@pytest.mark.skipif(torch.cuda.is_available(), reason="sums in another order on a GPU")
@pytest.mark.usefixtures("local_ray")
def test_slates_are_the_same_from_tasks_and_from_gpu_actors(tmp_path: Path) -> None:
    workspace = make(tmp_path)
    daily_run.run(workspace.context(workspace.root, WITHOUT_LLM))
    by_tasks = read_slates(workspace.root, workspace.dataset.date, verify=True)
    assert by_tasks.num_rows > USERS
    other = workspace.prepared(tmp_path / "gpu")
    for folder in (other / "models").glob("blend*"):  # so that its training examples are made again, too
        folder.rename(tmp_path / folder.name)
    daily_run.run(workspace.context(other, WITHOUT_LLM, *ON_GPU))
    by_actors = read_slates(other, workspace.dataset.date, verify=True)
    assert not differences(by_tasks, by_actors, but=("slate_id",))
