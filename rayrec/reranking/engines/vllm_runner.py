"""The vLLM engine, in process: hidden states, next-token log-probabilities, and text that fits a JSON schema.

Hidden states come from the pooling runner, not from `LLM.generate` with `logprob_token_ids`: vLLM 0.29 takes at most
128 ids a request, so 200 candidates would need two, and it returns one Python object a candidate.

Reproducibility: on CPU, in float32 and with one thread, results are bit-identical alone and in any batch, with a cold
or a warm prefix cache. With more threads or on a GPU the last bits (1e-7) may change with the batch, so on CPU run
several engines of one thread. On a GPU vLLM offers VLLM_BATCH_INVARIANT=1 (not tested here).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import huggingface_hub.constants
import numpy as np
import torch

from rayrec.config.vllm_arguments import check_vllm_arguments
from rayrec.errors import ConfigError
from rayrec.instructions.teachers.answer_cache import Answer
from rayrec.reranking.engines.engine import Engine, EngineSettings, EngineWork, Failure, Float32, ModelFiles, Task
from rayrec.storage import checkpoint_cache
from rayrec.storage.checkpoint_safety import quantization, require_safe

VLLM_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # One process: on CPU a forked engine core reserves a core and duplicates all memory.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
)
"""Must be set before vLLM is imported; in a Ray actor through its runtime_env."""

_CPU_CACHE_BYTES = {"hidden_state": 256 << 20, "next_token": 256 << 20, "json": 1 << 30}
_GPU_UTILIZATION = 0.92  # vLLM's own default for an engine alone on its GPU
_GPU_BATCH_TOKENS = 16_384
_ERROR_CHARS = 500  # of a message of vLLM's
_T = TypeVar("_T")
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # ranks with vLLM kernels


class VllmRunner(Engine):
    """One `vllm.LLM`, started for one task."""

    name = "vllm"

    def __init__(
        self,
        model: ModelFiles,
        task: Task,
        settings: EngineSettings,
        max_prompt_tokens: int | None = None,
        new_tokens: int | None = None,
    ) -> None:
        """Start the engine. Raises ConfigError for arguments in `settings.vllm` that could change a score."""
        check_vllm_arguments(settings.vllm)
        require_safe(Path(model.folder), f"the engine's model: {model.folder}")
        if model.adapter is not None:
            require_safe(Path(model.adapter), f"rerank.adapter: {model.adapter}", adapter=True)
        for key, value in VLLM_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        # Only here, and for child processes: checkpoints were fetched before (rayrec.storage.hub_download).
        os.environ["HF_HUB_OFFLINE"] = "1"
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        # Compiled kernels stay on the node: another engine, and tomorrow's, starts with them.
        os.environ.setdefault("VLLM_CACHE_ROOT", str(checkpoint_cache.node_folder("vllm")))
        if settings.threads:
            torch.set_num_threads(settings.threads)  # vLLM refuses it once started
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        super().__init__(model, task, settings, max_prompt_tokens, new_tokens)
        self._adapter = None if model.adapter is None else LoRARequest("adapter", 1, model.adapter)
        self._gpu_share = settings.gpu_share
        defaults, fixed = self._defaults(task), self._fixed(model, task)
        try:
            self._llm = LLM(model=model.folder, **(defaults | settings.vllm | fixed))
        except (ValueError, RuntimeError, KeyError, ImportError, AssertionError) as error:
            quantized = quantization(Path(model.folder), model.folder)
            if quantized is not None:
                raise ConfigError(
                    f"vLLM does not start with this quantized ({quantized}) checkpoint on this {self.device}: "
                    f"{_in_words(error)}",
                    where=f"the engine's model: {model.folder}",
                    hint="give the checkpoint without quantization, or with a method that vLLM supports on this device",
                ) from error
            if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
                raise  # no memory, a lost device: another attempt may succeed
            # What vLLM raises for checkpoints and arguments that it does not support: pydantic's errors, mostly.
            raise ConfigError(
                f"vLLM cannot run this checkpoint: {_in_words(error)}",
                where=model.folder if model.adapter is None else f"{model.folder} with {model.adapter}",
                hint="choose another checkpoint, dtype or resources.vllm, or set rerank.engine: transformers",
            ) from None

    def generate_json(self, prompts: Sequence[list[int]], schema: Mapping[str, Any]) -> list[Answer]:
        """Greedy text of at most `new_tokens` for each prompt; if finished, JSON that fits the schema.

        For task "json". A prompt that vLLM refuses gets an empty, unfinished answer.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        form = StructuredOutputsParams(json=dict(schema))
        params = SamplingParams(temperature=0, max_tokens=self.new_tokens, structured_outputs=form)

        def generate(inputs: list[Any]) -> list[Answer]:
            outputs = [found.outputs[0] for found in self._llm.generate(inputs, params, use_tqdm=False)]
            return [Answer(output.text, output.finish_reason == "stop") for output in outputs]

        answers = _sorted_by_prefix(prompts, generate)
        return [Answer("", False) if isinstance(answer, Failure) else answer for answer in answers]

    def _last_hidden_states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        from vllm import PoolingParams

        params = PoolingParams(use_activation=False)

        def encode(inputs: list[Any]) -> list[Float32]:
            outputs = self._llm.encode(inputs, params, pooling_task="embed", use_tqdm=False)
            self._count(_cached(outputs))
            return [output.outputs.data.float().numpy() for output in outputs]

        return _sorted_by_prefix(prompts, encode)

    def _next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        """Generate one token, so that only the prompt is computed. With `logprob_token_ids` and without `logprobs`,
        vLLM returns those ids and the sampled one; log-probabilities are raw, before temperature and penalties."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=list(ids), detokenize=False)

        def generate(inputs: list[Any]) -> list[Float32]:
            outputs = self._llm.generate(inputs, params, use_tqdm=False, lora_request=self._adapter)
            self._count(_cached(outputs))
            found = [output.outputs[0].logprobs[0] for output in outputs]
            return [np.array([row[token].logprob for token in ids], np.float32) for row in found]

        return _sorted_by_prefix(prompts, generate)

    def _fixed(self, model: ModelFiles, task: Task) -> dict[str, Any]:
        """Arguments of vllm.LLM that change results."""
        from vllm.config import PoolerConfig

        arguments: dict[str, Any] = {
            "max_model_len": self.max_prompt_tokens + self.new_tokens,
            "dtype": self._dtype,
            "enable_prefix_caching": True,
            "trust_remote_code": False,
            "load_format": "safetensors",
            "seed": 0,
        }
        if task != "json":
            arguments["enable_chunked_prefill"] = False  # chunks of a prompt would depend on its batch
        if task == "hidden_state":
            arguments |= {"runner": "pooling", "convert": "embed"}
            arguments["pooler_config"] = PoolerConfig(seq_pooling_type="LAST", use_activation=False)
        elif task == "next_token":
            arguments |= {"logprobs_mode": "raw_logprobs", "skip_tokenizer_init": True}
        else:
            arguments["structured_outputs_config"] = {"backend": "xgrammar", "disable_any_whitespace": True}
            arguments["generation_config"] = "vllm"  # ignore the checkpoint's sampling defaults
        if model.adapter is not None:
            rank = next(size for size in _LORA_RANKS if size >= model.lora_rank)
            arguments |= {"enable_lora": True, "max_lora_rank": rank}
        return arguments

    def _defaults(self, task: Task) -> dict[str, Any]:
        """Arguments of vllm.LLM about memory and speed, which the config may override."""
        arguments: dict[str, Any] = {"disable_log_stats": True}
        if task == "next_token":
            # Without chunked prefill the longest prompt must fit.
            least = _GPU_BATCH_TOKENS if self.device == "cuda" else 2048
            arguments["max_num_batched_tokens"] = max(least, self.max_prompt_tokens + self.new_tokens)
        if self.device == "cpu":
            arguments |= {"enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": _CPU_CACHE_BYTES[task]}
        else:
            # vLLM requires that share of the whole GPU to be free when it starts. Rounded down: sums stay below 1.
            arguments["gpu_memory_utilization"] = math.floor(1000 * _GPU_UTILIZATION * self._gpu_share) / 1000
        return arguments


def _in_words(error: Exception) -> str:
    """The message of an error, of pydantic's without types and links, on one line."""
    from pydantic import ValidationError

    said = [each["msg"] for each in error.errors()] if isinstance(error, ValidationError) else [str(error)]
    return " ".join("; ".join(said).removeprefix("Value error, ").split())[:_ERROR_CHARS] or type(error).__name__


def _cached(outputs: Sequence[Any]) -> EngineWork:
    """The tokens that the prefix cache had; vLLM gives none, or a number below 0, where it does not know."""
    return EngineWork(cached_tokens=sum(max(getattr(output, "num_cached_tokens", None) or 0, 0) for output in outputs))


def _sorted_by_prefix(prompts: Sequence[list[int]], run: Callable[[list[Any]], list[_T]]) -> list[_T | Failure]:
    """Apply `run` to the prompts in lexical order, so that prompts with a common prefix are adjacent and vLLM finds it
    in the prefix cache."""
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    answers = _bisected([prompts[row] for row in order], run)
    results = dict(zip(order, answers, strict=True))
    return [results[row] for row in range(len(prompts))]


def _bisected(prompts: Sequence[list[int]], run: Callable[[list[Any]], list[_T]]) -> list[_T | Failure]:
    """Apply `run` to the prompts. vLLM refuses a batch for one invalid prompt; the batch is then halved until that one
    is alone."""
    if not prompts:
        return []
    try:
        return list(run([{"prompt_token_ids": prompt} for prompt in prompts]))
    except ValueError as error:
        if len(prompts) == 1:
            return [Failure(f"vLLM refused the prompt: {error}")]
        half = len(prompts) // 2
        return _bisected(prompts[:half], run) + _bisected(prompts[half:], run)
