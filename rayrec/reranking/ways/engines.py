"""A way, ready to score: its settings read, its engine started on the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayrec.errors import ConfigError
from rayrec.instructions.templates import Templates
from rayrec.reranking.base import EngineSettings
from rayrec.reranking.engines import engine_named
from rayrec.reranking.ways.base import WAYS, Way
from rayrec.reranking.ways.checkpoint import Checkpoint
from rayrec.reranking.ways.next_token import NextToken
from rayrec.reranking.ways.transformers_next_token import TransformersNextToken
from rayrec.reranking.ways.vllm_next_token import VllmNextToken

_ENGINES: dict[str, type[NextToken]] = {engine.name: engine for engine in (VllmNextToken, TransformersNextToken)}


def way_named(method: str) -> type[Way]:
    """`label`, `yes_no` or `pairwise`. Raises ConfigError for others."""
    if method not in WAYS:
        raise ConfigError(
            f"there is no way of scoring {method!r}", where="rerank.method", do=f"choose one of {', '.join(WAYS)}"
        )
    return WAYS[method]


def start(
    method: str,
    choice: str,
    checkpoint: Checkpoint,
    engine: EngineSettings,
    settings: Mapping[str, Any],
    templates: Templates,
) -> Way:
    """`choice`: the engine, as in rerank.engine (see rayrec.reranking.engines); `settings`: of the way."""
    way = way_named(method)
    longest = way.read(settings).prompt_tokens
    return way.load(_ENGINES[engine_named(choice).name](checkpoint, engine, longest), checkpoint, settings, templates)
