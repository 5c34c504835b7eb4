"""What engines say about their work: prompts, tokens, and the tokens that a prefix cache had."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from rayrec.reranking.engines import engine
from rayrec.reranking.engines.engine import Engine, EngineSettings, EngineWork, Failure, Float32, ModelFiles
from rayrec.reranking.engines.vllm_runner import _cached


class CountedEngine(Engine):
    """Gives zeros."""

    name = "counted"

    def _last_hidden_states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        return [np.zeros(1, np.float32) for _ in prompts]

    def _next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        return [np.zeros(len(ids), np.float32) for _ in prompts]


def test_prompts_and_tokens_are_counted_until_they_are_taken() -> None:
    engine.take_work()
    model = ModelFiles(folder="", dtype="float32", vocabulary_size=10, max_positions=8)
    counted = CountedEngine(model, "next_token", EngineSettings())
    counted.last_hidden_states([[1, 2], [3], []])  # the empty one is refused
    counted.next_token_log_probs([[1, 2, 3]], [4])
    assert engine.take_work() == {"counted": EngineWork(prompts=3, prompt_tokens=6)}
    assert engine.take_work() == {}


def test_cached_tokens_are_those_that_vllm_tells() -> None:
    outputs = [SimpleNamespace(num_cached_tokens=tokens) for tokens in (64, None, -1, 32)]
    assert _cached([*outputs, SimpleNamespace()]) == EngineWork(cached_tokens=96)
