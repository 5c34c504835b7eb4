"""`resources`: the resources that the job requests from the cluster."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rayrec.config.section import Section
from rayrec.config.vllm_arguments import check_parallelism, check_vllm_arguments


class Resources(Section):
    """The resources that the job requests from the cluster.

    They are not part of a run's fingerprint: they set speed and placement, not what is computed. More threads, a GPU or
    more tuning workers change rounding, and so the order of near ties.
    """

    ingest_tasks: int | None = Field(None, ge=1)
    """Concurrent ingest tasks; `null`: as many as the cluster has CPUs."""
    score_tasks: int | None = Field(None, ge=1)
    """Concurrent tasks that denoise and retrieve; `null`: as many as the cluster has CPUs."""
    score_memory_mb: int = Field(1024, ge=64)
    """MiB that Ray reserves for each task that denoises and retrieves: its working set. The item model is mapped from a
    file, one copy for all tasks of a node."""
    denoise_num_gpus: float = Field(0, ge=0)
    """GPUs of each actor that denoises: a fraction of one, or a whole number; 0: denoising runs in tasks on CPUs. Only
    `influence`, and `ease` with dense weights, compute on a GPU."""
    denoise_actors: int | tuple[int, int] = 1
    """Concurrent actors that denoise, where `denoise_num_gpus` is above 0: as `rerank_actors`."""
    retrieve_num_gpus: float = Field(0, ge=0)
    """GPUs of each actor that retrieves candidates, as `denoise_num_gpus`; 0: tasks on CPUs. Dense item-item weights
    and item factors are multiplied on the GPU."""
    retrieve_actors: int | tuple[int, int] = 1
    """Concurrent actors that retrieve, where `retrieve_num_gpus` is above 0: as `rerank_actors`."""
    fit_num_cpus: float = Field(2, gt=0)
    """CPUs of the task that fits the item models; at most those of the largest node."""
    tune_workers: int = Field(1, ge=1)
    """Workers of distributed tuning, also in `jobs.embed`."""
    tune_num_cpus: float = Field(2, gt=0)
    """CPUs of each tuning worker; at most those of the largest node."""
    tune_num_gpus: Literal[0, 1] = 0
    """GPUs of each tuning worker. The model from scratch needs none; `tuning.base` may."""
    rerank_actors: int | tuple[int, int] = 1
    """Concurrent LLM engines: a number, or `[min, max]`; at most one for each shard. With GPUs `max` are asked for at
    once and none is waited for, without GPUs `min`, and more while CPUs are free."""
    rerank_num_gpus: float = Field(0, ge=0)
    """GPUs of each actor with LLM engines: a fraction of one, or a whole number. Its engines, one for each checkpoint,
    share them."""
    rerank_device: Literal["auto", "cpu"] = "auto"
    """`auto`: CUDA where `rerank_num_gpus` is above 0."""
    rerank_num_cpus: float = Field(1, ge=0, allow_inf_nan=False)
    """CPUs that Ray reserves for each engine; `rerank_threads` sets how many threads it uses."""
    rerank_threads: int = Field(1, ge=1)
    """Threads of a CPU engine; with more than one, the last bits of scores may differ between runs."""
    no_progress_minutes: float | None = Field(120, gt=0, allow_inf_nan=False)
    """A stage of which no shard or file moves on for so long ends the job (exit 2; the next run resumes): a missing
    node, say. Above the time of one shard; `null`: never."""
    local_cpus: int | None = Field(None, ge=1)
    """CPUs of a local Ray; `null`: all of the machine."""
    local_object_store_mb: int = Field(1024, ge=128)
    """MiB of a local Ray's object store; beyond it Ray spills to disk."""
    vllm: dict[str, Any] = Field({})
    """Arguments of `vllm.LLM`: `gpu_memory_utilization` (default: 0.92, divided among the engines on a GPU),
    `tensor_parallel_size`, `max_num_batched_tokens`, … Only those about memory, devices, batch sizes and logging are
    allowed (`rayrec/config/vllm_arguments.py`)."""

    @property
    def engine_device(self) -> str:
        """The device of LLM engines: `cuda` or `cpu`."""
        return "cuda" if self.rerank_num_gpus and self.rerank_device == "auto" else "cpu"

    @field_validator("vllm")
    @classmethod
    def _no_scoring(cls, vllm: dict[str, Any]) -> dict[str, Any]:
        check_vllm_arguments(vllm)
        return vllm

    @field_validator("rerank_actors", "denoise_actors", "retrieve_actors")
    @classmethod
    def _some_actors(cls, actors: int | tuple[int, int]) -> int | tuple[int, int]:
        least, most = (actors, actors) if isinstance(actors, int) else actors
        if not 1 <= least <= most:
            raise ValueError("give a number of at least 1, or [min, max] with 1 <= min <= max")
        return actors

    @field_validator("rerank_num_gpus", "denoise_num_gpus", "retrieve_num_gpus")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError("more than one GPU is a whole number of them")
        return gpus

    @model_validator(mode="after")
    def _as_many_gpus_as_vllm_uses(self) -> Resources:
        if self.rerank_num_gpus and self.rerank_device == "auto":
            check_parallelism(self.vllm, self.rerank_num_gpus)
        return self
