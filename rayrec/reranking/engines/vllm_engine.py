"""vLLM, in process, asked for the last hidden state of each prompt (its pooling runner), not for generated text.

Why not `LLM.generate` with `logprob_token_ids`: vLLM 0.29 takes at most 128 of them a request, so 200 candidates would
cost two requests a user; and it hands back Python lists and dicts of log-probabilities, one object a candidate. The
pooling runner does the same prefill, with the same paged KV cache and prefix caching, skips the sampler, and hands back
one vector, from which `ItemHead` gives all candidates at once. The numbers are the same
(tests/reranking/test_engines.py).

Bits: on CPU in float32 and with one thread, a prompt scores the same bits alone and in any batch, with a cold and
with a warm prefix cache. With more threads, or on a GPU, the last bits of a score (1e-7 of it) may change with the
batch; why was not pinned down (how work is split between threads, most likely). So on CPU: more engines of one thread,
not one engine of more. On a GPU, VLLM_BATCH_INVARIANT=1 is vLLM's own answer (not run here).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from rayrec.config.vllm_arguments import check_vllm_arguments
from rayrec.reranking.engines.engine import Engine, EngineSettings, Failure, Float32
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

VLLM_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # One process: on CPU a forked engine core reserves a core and holds a second copy of everything.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
)
"""To be set before vLLM is imported: in a Ray actor through its runtime_env."""

_CPU_CACHE_BYTES = 256 << 20


class VllmEngine(Engine):
    name = "vllm"

    def __init__(self, model: LocalCheckpoint, settings: EngineSettings) -> None:
        check_vllm_arguments(settings.vllm)
        for key, value in VLLM_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        if settings.threads:
            torch.set_num_threads(settings.threads)  # before vLLM starts: afterwards it refuses
        from transformers import AutoConfig
        from vllm import LLM, PoolingParams
        from vllm.config import PoolerConfig

        super().__init__(model, settings)
        longest = int(AutoConfig.from_pretrained(model.folder, local_files_only=True).max_position_embeddings)
        fixed: dict[str, Any] = {
            "max_model_len": min(longest, settings.longest or longest),
            "runner": "pooling",
            "convert": "embed",
            "pooler_config": PoolerConfig(seq_pooling_type="LAST", use_activation=False),
            "dtype": model.card.dtype if settings.dtype == "auto" else settings.dtype,
            "enable_prefix_caching": True,
            "enable_chunked_prefill": False,  # where a prompt is cut would depend on its batch mates
            "trust_remote_code": False,
            "load_format": "safetensors",
            "seed": 0,
        }
        defaults: dict[str, Any] = {"disable_log_stats": True}
        if settings.device == "cpu":
            defaults |= {"enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": _CPU_CACHE_BYTES}
        self._llm = LLM(model=model.folder, **(defaults | settings.vllm | fixed))
        self._params = PoolingParams(use_activation=False)
        self.longest = int(fixed["max_model_len"])

    def last_hidden_states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        # In lexical order prompts that share a beginning follow each other: vLLM finds the blocks in its prefix cache.
        order = sorted(range(len(prompts)), key=prompts.__getitem__)
        answers = self._ask([prompts[row] for row in order])
        out: list[Float32 | Failure] = [Failure("not scored")] * len(prompts)
        for row, answer in zip(order, answers, strict=True):
            out[row] = answer
        return out

    def _ask(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        if not prompts:
            return []
        try:
            outputs = self._llm.encode(
                [{"prompt_token_ids": prompt} for prompt in prompts], self._params, pooling_task="embed", use_tqdm=False
            )
        except ValueError as error:
            # vLLM checks every prompt before it runs any, and refuses all for one. Halve until that one is alone.
            if len(prompts) == 1:
                return [Failure(f"vLLM refused the prompt: {error}")]
            half = len(prompts) // 2
            return self._ask(prompts[:half]) + self._ask(prompts[half:])
        return [output.outputs.data.float().numpy() for output in outputs]
