"""The arguments of vllm.LLM that `resources.vllm` may set: memory, parallelism, batch sizes and logging.

`resources` are not part of a run's fingerprint, so they must not change scores. All other arguments are refused: many
change scores, some name code to run, and one is a secret.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from rayrec.errors import ConfigError

ALLOWED = frozenset(
    {
        # memory
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "num_gpu_blocks_override",
        "block_size",
        "watermark",
        "cpu_offload_gb",
        "cpu_offload_params",
        "offload_backend",
        "offload_group_size",
        "offload_num_in_group",
        "offload_prefetch_step",
        "offload_params",
        "kv_offloading_size",
        "kv_offloading_backend",
        "enforce_eager",
        "cudagraph_capture_sizes",
        "max_cudagraph_capture_size",
        # devices
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "enable_expert_parallel",
        "distributed_executor_backend",
        "distributed_timeout_seconds",
        "disable_custom_all_reduce",
        "max_parallel_loading_workers",
        "numa_bind",
        "numa_bind_nodes",
        "numa_bind_cpus",
        # batch sizes
        "max_num_seqs",
        "max_num_batched_tokens",
        "async_scheduling",
        # logging
        "disable_log_stats",
        "aggregate_engine_logging",
        "enable_logging_iteration_details",
        "enable_mfu_metrics",
        "kv_cache_metrics",
        "kv_cache_metrics_sample",
        "cudagraph_metrics",
        "use_tqdm_on_load",
    }
)
_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size")
_BACKENDS = ("mp", "ray", "uni")  # distributed_executor_backend; vLLM imports any other name as a class


def check_vllm_arguments(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for arguments that are not ALLOWED. Errors omit the values, which may be secrets; the names
    come last, because messages hide what follows `token:`."""
    if refused := sorted(given.keys() - ALLOWED):
        near = {name: difflib.get_close_matches(name, sorted(ALLOWED), n=1, cutoff=0.8) for name in refused}
        meant = [f"instead of {name} perhaps {found[0]}; " for name, found in near.items() if found]
        raise ConfigError(
            f"not taken here, where nothing may change a score: {', '.join(refused)}",
            where="resources.vllm",
            hint=f"remove it; {''.join(meant)}the longest prompt is prompt_tokens in rerank.settings, the dtype "
            f"rerank.dtype; taken are {', '.join(sorted(ALLOWED))}",
        )
    for name in _PARALLEL:
        if name in given and not (type(given[name]) is int and given[name] >= 1):
            what = "this must be a whole number of at least 1"
            raise ConfigError(what, where=f"resources.vllm.{name}", hint="give the number of GPUs of one engine")
    if (backend := given.get("distributed_executor_backend")) not in (None, *_BACKENDS):
        raise ConfigError(
            f"there is no backend {backend!r}",
            where="resources.vllm.distributed_executor_backend",
            hint=f"give one of {', '.join(_BACKENDS)}, or none: vLLM finds one",
        )


def check_parallelism(given: Mapping[str, Any], gpus: float) -> None:
    """Raise ConfigError where vLLM would spread an engine over another number of GPUs than Ray gives its actor.

    `gpus`: those of an engine, above 0.
    """
    named = [name for name in _PARALLEL if name in given]
    wanted = math.prod(given[name] for name in named)
    if named and wanted != max(1, gpus):
        raise ConfigError(
            f"vLLM would spread an engine over {wanted} GPUs, and it gets {gpus:g} (resources.rerank_num_gpus)",
            where=" x ".join(f"resources.vllm.{name}" for name in named),
            hint=f"set resources.rerank_num_gpus: {wanted}, or make the product {max(1, gpus):g}",
        )
