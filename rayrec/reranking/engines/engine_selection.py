"""Which engine: by name, or the best that is there."""

from __future__ import annotations

import gc
import importlib.util
import logging

import torch

from rayrec.errors import ConfigError
from rayrec.reranking.engines.engine import Engine, EngineSettings
from rayrec.reranking.engines.transformers_engine import TransformersEngine
from rayrec.reranking.engines.vllm_engine import VllmEngine
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

_LOG = logging.getLogger(__name__)


def engine_named(choice: str) -> type[Engine]:
    """`vllm`, `transformers`, or `auto`: vLLM if it is installed. Raises ConfigError where `vllm` is not."""
    installed = importlib.util.find_spec("vllm") is not None
    if choice == "transformers":
        return TransformersEngine
    if installed:
        return VllmEngine
    if choice == "vllm":
        raise ConfigError(
            "vLLM is not installed",
            where="rerank.engine",
            hint="pip install 'rayrec[cpu]' or 'rayrec[gpu]', or set rerank.engine to auto or transformers",
        )
    _LOG.warning("vLLM is not installed: the slower transformers engine scores")
    return TransformersEngine


def start(choice: str, model: LocalCheckpoint, settings: EngineSettings) -> Engine:
    return engine_named(choice)(model, settings)


def free() -> None:
    """Give back the memory of engines that nobody holds any more, so that the next one finds it.

    vLLM has Python's collector freeze what it loads, so that it is not looked at again: thawed, it can be let go.
    """
    gc.unfreeze()
    gc.collect()
    torch.cuda.empty_cache()
