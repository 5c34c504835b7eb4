"""Where the stages that denoise and retrieve run: in tasks on CPUs, or in actors with a GPU."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch

from rayrec.config import Resources
from rayrec.ray_support.stage_runner import ActorPoolSpec

_LOG = logging.getLogger(__name__)


def denoising(resources: Resources) -> dict[str, Any]:
    """Arguments of `append_stage` for a stage that denoises."""
    return _placement(resources, resources.denoise_num_gpus, resources.denoise_actors)


def retrieval(resources: Resources) -> dict[str, Any]:
    """Arguments of `append_stage` for a stage that retrieves."""
    return _placement(resources, resources.retrieve_num_gpus, resources.retrieve_actors)


def torch_device(gpus: float) -> torch.device:
    """The device of a stage with so many GPUs in this process: CUDA where Ray has given it one, else the CPU."""
    if not gpus:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    _warn_once()
    return torch.device("cpu")


def _placement(resources: Resources, gpus: float, actors: int | tuple[int, int]) -> dict[str, Any]:
    if gpus:
        # Without a CPU: two pools with one each would leave none, of two, to the tasks that feed them.
        return {"pool": ActorPoolSpec(actors, 0, gpus)}
    return {"concurrency": resources.score_tasks, "memory": resources.score_memory_mb << 20}


@cache
def _warn_once() -> None:
    _LOG.warning("a stage was given a GPU, and torch finds none: it computes on the CPU. Is this a CPU build of torch?")
