"""vLLM, in process, made to answer in the form of a JSON schema: what the llm teacher writes with.

Greedy, so that the same question gets the same answer; on a GPU, or with more than one thread, the last bits of a logit
may change with the batch, and with them, rarely, a word. What has been answered once is read from the cache.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayrec.config.vllm_arguments import check_vllm_arguments
from rayrec.instructions.teachers.answer_cache import Answer

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, as in rayrec.reranking.engines.vllm_engine
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}
_CPU_CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class GeneratorSettings:
    device: str = "cpu"  # "cuda" where a GPU is given
    threads: int | None = 1  # of a CPU engine; None: as torch finds them
    vllm: Mapping[str, Any] = field(default_factory=dict)  # more arguments for vllm.LLM
    dtype: str = "auto"  # as vLLM finds it

    def __post_init__(self) -> None:
        check_vllm_arguments(self.vllm)


class VllmJsonGenerator:
    """The checkpoint in `folder`, started; `tokens`: of prompt and answer together."""

    def __init__(self, folder: str | Path, tokens: int, settings: GeneratorSettings) -> None:
        for key, value in _ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        if settings.device == "cpu" and settings.threads:
            import torch

            torch.set_num_threads(settings.threads)  # before vLLM starts: afterwards it refuses
        from vllm import LLM

        arguments: dict[str, Any] = {
            "max_model_len": tokens,
            "dtype": settings.dtype,
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
            "generation_config": "vllm",  # not the checkpoint's own sampling
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "trust_remote_code": False,
            "load_format": "safetensors",
            "seed": 0,
        }
        if settings.device == "cpu":
            arguments |= {"enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": _CPU_CACHE_BYTES}
        self._llm = LLM(model=str(folder), **(arguments | dict(settings.vllm)))

    def write(self, prompts: Sequence[list[int]], schema: Mapping[str, Any], tokens: int) -> list[Answer]:
        """The answer to each prompt, of at most `tokens` tokens; JSON that fits the schema where it is finished."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        params = SamplingParams(
            temperature=0, max_tokens=tokens, structured_outputs=StructuredOutputsParams(json=dict(schema))
        )
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = [found.outputs[0] for found in self._llm.generate(asked, params, use_tqdm=False)]
        return [Answer(output.text, output.finish_reason == "stop") for output in outputs]
