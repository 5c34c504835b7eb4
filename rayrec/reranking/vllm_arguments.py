"""Which arguments of vllm.LLM are rayrec's own: those that scores depend on.

`resources` are no part of a run's identity. So `resources.vllm` may say with how much memory and on how many devices
vLLM computes, never what.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayrec.errors import ConfigError

SCORING = frozenset(
    {
        # what is loaded, and how exactly it is computed
        "model",
        "model_weights",
        "tokenizer",
        "skip_tokenizer_init",
        "hf_config_path",
        "hf_overrides",
        "model_class_overrides",
        "load_format",
        "trust_remote_code",
        "dtype",
        "quantization",
        "quantization_config",
        "kv_cache_dtype",
        "kv_cache_dtype_skip_layers",
        "enable_lora",
        "max_lora_rank",
        "lora_dtype",
        # what is read of a prompt, and how it is cut
        "max_model_len",
        "disable_sliding_window",
        "enable_prefix_caching",
        "enable_chunked_prefill",
        # what is asked
        "runner",
        "convert",
        "pooler_config",
        "logprobs_mode",
        "seed",
    }
)


def refuse_scoring(given: Mapping[str, Any]) -> None:
    """Raises ConfigError for arguments that are rayrec's own."""
    if taken := sorted(SCORING & given.keys()):
        raise ConfigError(
            f"{', '.join(taken)}: rayrec sets this itself, because scores depend on it",
            where="resources.vllm",
            do="remove it; the longest prompt is prompt_tokens in rerank.settings, the dtype rerank.dtype",
        )
