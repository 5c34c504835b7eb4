"""A way, ready to score: its settings read, its engine started on the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayrec.errors import ConfigError
from rayrec.instructions.templates import Templates
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.engine_selection import engine_named
from rayrec.reranking.engines.next_token import NextTokenEngine
from rayrec.reranking.engines.transformers_next_token import TransformersNextTokenEngine
from rayrec.reranking.engines.vllm_next_token import VllmNextTokenEngine
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_scorer import TEXT_SCORERS, TextScorer

_ENGINES: dict[str, type[NextTokenEngine]] = {
    engine.name: engine for engine in (VllmNextTokenEngine, TransformersNextTokenEngine)
}


def text_scorer_class(method: str) -> type[TextScorer]:
    """`label`, `yes_no` or `pairwise`. Raises ConfigError for others."""
    if method not in TEXT_SCORERS:
        raise ConfigError(
            f"there is no way of scoring {method!r}",
            where="rerank.method",
            hint=f"choose one of {', '.join(TEXT_SCORERS)}",
        )
    return TEXT_SCORERS[method]


def start(
    method: str,
    choice: str,
    checkpoint: InstructCheckpoint,
    engine: EngineSettings,
    settings: Mapping[str, Any],
    templates: Templates,
) -> TextScorer:
    """`choice`: the engine, as in rerank.engine (see rayrec.reranking.engines.engine_selection); `settings`: of the way."""
    way = text_scorer_class(method)
    longest = way.read(settings).prompt_tokens
    return way.load(_ENGINES[engine_named(choice).name](checkpoint, engine, longest), checkpoint, settings, templates)
