"""The engines by name, and the choice of `rerank.engine`."""

from __future__ import annotations

import gc
import importlib.util
import logging

import torch

from rayrec.errors import ConfigError
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.engines.vllm_runner import VllmRunner

_LOG = logging.getLogger(__name__)


def engine_class(choice: str) -> type[VllmRunner] | type[TransformersRunner]:
    """The class for `vllm`, `transformers` or `auto` (vLLM if installed). Raises ConfigError for `vllm` if it is not
    installed."""
    if choice == "transformers":
        return TransformersRunner
    if importlib.util.find_spec("vllm") is not None:
        return VllmRunner
    if choice == "vllm":
        raise ConfigError(
            "vLLM is not installed",
            where="rerank.engine",
            hint="pip install 'rayrec[cpu]' or 'rayrec[gpu]', or set rerank.engine to auto or transformers",
        )
    _LOG.warning("vLLM is not installed: scoring with the slower transformers engine")
    return TransformersRunner


def check_quantization(choice: str, quantization: str | None, checkpoint: str) -> None:
    """Raise ConfigError if the engine of this choice cannot compute with the checkpoint's quantized weights."""
    if quantization is not None and engine_class(choice) is not VllmRunner:
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
