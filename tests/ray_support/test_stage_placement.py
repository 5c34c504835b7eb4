"""Where denoising and retrieval run: in tasks, or in actors with a GPU only where the config asks for one."""

from __future__ import annotations

import pytest
import torch

from rayrec.config import Resources
from rayrec.pipeline import stage_placement
from rayrec.ray_support.stage_runner import ActorPoolSpec


def test_by_default_both_run_in_tasks_that_state_their_memory() -> None:
    tasks = {"concurrency": None, "memory": 1 << 30}
    assert stage_placement.denoising(Resources()) == stage_placement.retrieval(Resources()) == tasks


def test_with_gpus_they_are_pools_of_actors() -> None:
    resources = Resources(denoise_num_gpus=0.5, denoise_actors=(1, 4), retrieve_num_gpus=1, retrieve_actors=2)
    assert stage_placement.denoising(resources) == {"pool": ActorPoolSpec((1, 4), 0, 0.5)}
    assert stage_placement.retrieval(resources) == {"pool": ActorPoolSpec(2, 0, 1)}


def test_a_process_without_a_gpu_computes_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stage_placement._warn_once.cache_clear()
    assert stage_placement.torch_device(0).type == "cpu"
    assert not caplog.records
    assert stage_placement.torch_device(0.5).type == stage_placement.torch_device(1).type == "cpu"
    assert len(caplog.records) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert stage_placement.torch_device(0.5).type == "cuda"
    assert stage_placement.torch_device(0).type == "cpu"
