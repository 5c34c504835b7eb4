"""The engines by name, and which one `rerank.engine` chooses."""

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
    """The class for `vllm`, `transformers` or `auto`: vLLM where it is installed. Raises ConfigError where `vllm` is
    not."""
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
    """Release the memory of engines that nothing refers to any more, so that the next one has room.

    vLLM freezes what it loads, so that Python's collector skips it; unfrozen, it can be collected.
    """
    gc.unfreeze()
    gc.collect()
    torch.cuda.empty_cache()
