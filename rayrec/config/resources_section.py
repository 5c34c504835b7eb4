"""`resources`: what the job asks of the cluster."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from rayrec.config.section import Section
from rayrec.config.vllm_arguments import check_vllm_arguments


class Resources(Section):
    """What the job asks of the cluster.

    No part of a run's identity: it says how fast things are computed and where, not what. More threads, a GPU or more
    tuning workers change the rounding, and so the order of near ties.
    """

    ingest_tasks: int | None = Field(None, ge=1)
    """Ingest tasks at once; `null`: as many as the cluster has CPUs."""
    score_tasks: int | None = Field(None, ge=1)
    """Tasks at once that denoise and retrieve; `null`: as many as the cluster has CPUs."""
    fit_num_cpus: float = Field(2, gt=0)
    """CPUs of the task that fits the item models; at most the largest node's."""
    tune_workers: int = Field(1, ge=1)
    """Workers that tune together, here and in `jobs.embed`."""
    tune_num_cpus: float = Field(2, gt=0)
    """CPUs of each worker; at most the largest node's."""
    tune_num_gpus: Literal[0, 1] = 0
    """GPUs of each worker that tunes the LLM. The model made from scratch needs none; `tuning.base` may."""
    rerank_actors: int | tuple[int, int] = 1
    """Engines that score at once: a number, or `[min, max]` to autoscale."""
    rerank_num_gpus: float = Field(0, ge=0)
    """GPUs of each engine: a part of one, or whole ones."""
    rerank_device: Literal["auto", "cpu"] = "auto"
    """`auto`: CUDA where `rerank_num_gpus` is above 0."""
    rerank_num_cpus: float = Field(1, ge=0, allow_inf_nan=False)
    """CPUs by which each engine is placed; what it runs on is `rerank_threads`."""
    rerank_threads: int = Field(1, ge=1)
    """Threads of a CPU engine; with more than one, last bits may differ between runs."""
    local_cpus: int | None = Field(None, ge=1)
    """CPUs of a local Ray; `null`: the machine's."""
    local_object_store_mb: int = Field(1024, ge=128)
    """MiB of a local Ray's object store; beyond it Ray spills to disk."""
    vllm: dict[str, Any] = Field({})
    """Passed to `vllm.LLM`: `gpu_memory_utilization`, `tensor_parallel_size`, `max_num_batched_tokens`, … Only what is
    about memory, devices, room for prompts and logging is taken (`rayrec/config/vllm_arguments.py`)."""

    @field_validator("vllm")
    @classmethod
    def _no_scoring(cls, vllm: dict[str, Any]) -> dict[str, Any]:
        check_vllm_arguments(vllm)
        return vllm

    @field_validator("rerank_actors")
    @classmethod
    def _some_actors(cls, actors: int | tuple[int, int]) -> int | tuple[int, int]:
        least, most = (actors, actors) if isinstance(actors, int) else actors
        if not 1 <= least <= most:
            raise ValueError("give a number of at least 1, or [min, max] with 1 <= min <= max")
        return actors

    @field_validator("rerank_num_gpus")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError("more than one GPU is a whole number of them")
        return gpus
