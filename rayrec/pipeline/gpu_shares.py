"""How much of a GPU's memory each LLM engine may take: several engines of an actor, and several actors, share one.

vLLM takes a share of the whole GPU (`gpu_memory_utilization`, 0.92 by default), and does not start where less is free.
"""

from __future__ import annotations

import math

from rayrec.config import Rerank
from rayrec.errors import ConfigError
from rayrec.pipeline.run_context import RunContext
from rayrec.reranking.text.text_scorer import TextScorerSettings


def engine_key(method: Rerank) -> tuple[object, ...]:
    """Equal for scorers that share an engine: one for each checkpoint, dtype and prompt length, one for item tokens."""
    if not method.is_text_scorer:
        return (method.method,)
    assert isinstance(method.settings, TextScorerSettings)
    adapter = method.scorer_key if method.tunes_adapter else method.adapter  # each way of asking tunes its own
    return method.engine, method.checkpoint, adapter, method.dtype, method.settings.prompt_tokens


def engines_of_an_actor(context: RunContext) -> int:
    """How many engines an actor holds once every scorer of every arm is loaded."""
    methods = [variant.read(Rerank) for variant in context.arms.variants("rerank")]
    return len({engine_key(method) for method in methods if method.method != "none"})


def gpu_share(context: RunContext) -> float:
    """The share of each of its GPUs that is an engine's: the actor's share (`rerank_num_gpus`), by its engines."""
    gpus = context.config.resources.rerank_num_gpus
    return min(gpus or 1.0, 1.0) / max(1, engines_of_an_actor(context))


def check_gpu_shares(context: RunContext) -> None:
    """Raise ConfigError if a `gpu_memory_utilization` of the config is too much for the engines that share a GPU."""
    resources = context.config.resources
    given = resources.vllm.get("gpu_memory_utilization")
    if given is None or not resources.rerank_num_gpus or resources.rerank_device == "cpu":
        return
    engines = engines_of_an_actor(context)
    actors = max(1, math.floor(1 / resources.rerank_num_gpus + 1e-9))
    if engines * actors > 1 and engines * actors * given > 1:
        raise ConfigError(
            f"{engines * actors} engines share a GPU ({engines} in an actor, {actors} actors on a GPU), and each takes "
            f"{given} of its memory",
            where="resources.vllm.gpu_memory_utilization",
            hint=f"leave it out: each gets {gpu_share(context):.2f} of what vLLM takes by default",
        )
