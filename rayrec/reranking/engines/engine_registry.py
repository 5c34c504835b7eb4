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


def free_memory() -> None:
    """Release the memory of unreferenced engines.

    vLLM freezes loaded objects, which hides them from Python's collector, so they are unfrozen first.
    """
    gc.unfreeze()
    gc.collect()
    torch.cuda.empty_cache()
