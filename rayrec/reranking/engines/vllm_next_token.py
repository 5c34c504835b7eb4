"""vLLM, in process, asked for one token of which only the log-probabilities count (`max_tokens=1`: prefill only).

`logprob_token_ids` without `logprobs`: the answer holds those ids plus the sampled one. Log-probabilities are raw,
taken before temperature and penalties. On bits, batches and threads see rayrec.reranking.engines.vllm_engine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rayrec.config.vllm_arguments import check_vllm_arguments
from rayrec.reranking.engines.engine import EngineSettings, Failure, Float32
from rayrec.reranking.engines.next_token import NextTokenEngine
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint

_CPU_CACHE_BYTES = 256 << 20
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM has kernels for


class VllmNextTokenEngine(NextTokenEngine):
    name = "vllm"

    def __init__(self, checkpoint: InstructCheckpoint, settings: EngineSettings, longest: int) -> None:
        from rayrec.reranking.engines.vllm_engine import VLLM_ENVIRONMENT

        check_vllm_arguments(settings.vllm)
        for key, value in VLLM_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        if settings.threads:
            torch.set_num_threads(settings.threads)  # before vLLM starts: afterwards it refuses
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        super().__init__(checkpoint, settings, longest)
        fixed: dict[str, Any] = {
            "max_model_len": self.longest + 1,  # the one token counts
            "dtype": checkpoint.dtype(settings.dtype),
            "enable_prefix_caching": True,
            "enable_chunked_prefill": False,  # where a prompt is cut would depend on its batch mates
            "logprobs_mode": "raw_logprobs",
            "skip_tokenizer_init": True,
            "trust_remote_code": False,
            "load_format": "safetensors",
            "seed": 0,
        }
        defaults: dict[str, Any] = {
            "disable_log_stats": True,
            "max_num_batched_tokens": max(2048, self.longest + 1),  # a whole prompt must fit: it is not cut
        }
        if settings.device == "cpu":
            defaults |= {"enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": _CPU_CACHE_BYTES}
        self._adapter: Any = None
        if checkpoint.adapter is not None:
            rank = checkpoint.lora_rank
            fixed |= {"enable_lora": True, "max_lora_rank": next(size for size in _LORA_RANKS if size >= rank)}
            self._adapter = LoRARequest("adapter", 1, str(checkpoint.adapter))
        self._llm = LLM(model=str(checkpoint.folder), **(defaults | settings.vllm | fixed))

    def next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        # In lexical order prompts that share a beginning follow each other: vLLM finds the blocks in its prefix cache.
        order = sorted(range(len(prompts)), key=prompts.__getitem__)
        answers = self._ask([prompts[row] for row in order], list(ids))
        out: list[Float32 | Failure] = [Failure("not scored")] * len(prompts)
        for row, answer in zip(order, answers, strict=True):
            out[row] = answer
        return out

    def _ask(self, prompts: Sequence[list[int]], ids: list[int]) -> list[Float32 | Failure]:
        from vllm import SamplingParams

        if not prompts:
            return []
        params = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=ids, detokenize=False)
        try:
            outputs = self._llm.generate(
                [{"prompt_token_ids": prompt} for prompt in prompts],
                params,
                use_tqdm=False,
                lora_request=self._adapter,
            )
        except ValueError as error:
            # vLLM checks every prompt before it runs any, and refuses all for one. Halve until that one is alone.
            if len(prompts) == 1:
                return [Failure(f"vLLM refused the prompt: {error}")]
            half = len(prompts) // 2
            return self._ask(prompts[:half], ids) + self._ask(prompts[half:], ids)
        self.prompt_counts["cached tokens"] += sum(output.num_cached_tokens or 0 for output in outputs)
        return [_row(output.outputs[0].logprobs[0], ids) for output in outputs]


def _row(found: Any, ids: Sequence[int]) -> Float32:
    return np.array([found[token].logprob for token in ids], np.float32)
