"""The metrics of a run: what the stages tell Prometheus (names: `rayrec.ray_support.ray_metrics`)."""

from __future__ import annotations

import torch

from rayrec.ray_support import ray_metrics
from rayrec.reranking.engines.engine import take_work


def input_read(rows: int, quarantined: int) -> None:
    """The input is read, or was by an earlier attempt: so many rows, and those of them that broke their contract."""
    ray_metrics.put("rayrec_quarantine_share", quarantined / max(rows, 1))


def shards_pending(shards: int) -> None:
    ray_metrics.put("rayrec_shards_pending", shards)


def shard_done(users: int, pending: int) -> None:
    """A shard with so many users is committed, and so many shards are left."""
    ray_metrics.add("rayrec_users_done_total", users)
    ray_metrics.add("rayrec_shards_done_total", 1)
    shards_pending(pending)


def engine_work(on_gpu: bool) -> None:
    """What the engines of this process computed since the last call, and the memory of their GPUs."""
    for name, done in take_work().items():
        ray_metrics.add("rayrec_engine_prompts_total", done.prompts, engine=name)
        ray_metrics.add("rayrec_engine_prompt_tokens_total", done.prompt_tokens, engine=name)
        ray_metrics.add("rayrec_engine_cached_tokens_total", done.cached_tokens, engine=name)
    for gpu in range(torch.cuda.device_count() if on_gpu else 0):
        free, total = torch.cuda.mem_get_info(gpu)
        ray_metrics.put("rayrec_gpu_memory_used_bytes", total - free, gpu=str(gpu))
        ray_metrics.put("rayrec_gpu_memory_total_bytes", total, gpu=str(gpu))
