"""The engines and training workers of a run as they fit into the cluster: checked at the start, said in the plan."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from rayrec.config import Rerank, Resources
from rayrec.pipeline.arm_settings import needs_tuned_llm, tuned_text_rerankers, uses_llm
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import cluster
from rayrec.ray_support.capacity import (
    Capacity,
    ClusterError,
    Node,
    Placement,
    check_gpu_stages,
    place_engines,
    place_workers,
)
from rayrec.ray_support.training_workers import WorkerGroup
from rayrec.storage.checkpoint_source import local_folder, node_copy
from rayrec.storage.hf_checkpoint import stored_dtype

_LOG = logging.getLogger(__name__)


def check_placement(context: RunContext) -> None:
    """Warn where the run gets less than its settings ask for. Raises ClusterError for what can never be placed."""
    has = cluster.capacity()
    for note in (*placement_notes(context, has), *dtype_notes(context)):
        _LOG.warning("resources: %s", note)
    if has.may_grow:
        try:
            now = tuple(f"only {note}" for note in placement_notes(context, Capacity(has.nodes)))
        except ClusterError as error:
            now = (error.what,)
        for note in now:
            _LOG.warning("resources: as the cluster is now, %s; it may grow", note)


def placement_notes(context: RunContext, has: Capacity) -> tuple[str, ...]:
    """How engines and workers differ from the settings on such a cluster. Raises ClusterError if one never fits."""
    resources, notes = context.config.resources, tuple[str, ...]()
    if any(uses_llm(variant) for variant in context.arms.variants("rerank")):
        notes += place_engines(resources, has).notes
    check_gpu_stages(resources, any(uses_llm(each) for each in context.arms.variants("rerank")), has)
    if needs_tuned_llm(context) or tuned_text_rerankers(context):
        largest = max((node.cpus for node in has.nodes), default=0.0)
        cpus = min(resources.tune_num_cpus, largest or resources.tune_num_cpus)
        notes += place_workers(resources.tune_workers, cpus, resources.tune_num_gpus, has)[1]
    return notes


def dtype_notes(context: RunContext, cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The text rerankers that `rerank.dtype: auto` runs in float32 on this machine's CPU, although it has units for
    bfloat16."""
    if context.config.resources.rerank_num_gpus or not cpuinfo.exists():
        return ()
    flags = set(cpuinfo.read_text().split())
    if flags.isdisjoint(("amx_bf16", "avx512_bf16")):
        return ()
    methods = [variant.read(Rerank) for variant in context.arms.variants("rerank")]
    here = [method for method in methods if method.is_text_scorer and _is_here(str(method.checkpoint))]
    slow = {
        f"rerank.dtype auto computes {method.method} in float32, as {method.checkpoint} is stored; bfloat16 is several "
        "times faster on this CPU"
        for method in here
        if method.dtype == "auto"
        and stored_dtype(local_folder(str(method.checkpoint), "rerank.checkpoint")) == "float32"
    }
    return tuple(sorted(slow))


def _is_here(checkpoint: str) -> bool:
    """False before a remote checkpoint is copied to this node."""
    copy = node_copy(checkpoint, "rerank.checkpoint")
    return copy is None or copy.is_here()


def planned_capacity(resources: Resources) -> Capacity | None:
    """The cluster that a run would start on this machine, without its GPUs; None if RAY_ADDRESS names another."""
    if os.environ.get("RAY_ADDRESS", "local") not in ("", "local"):
        return None
    return Capacity((Node(float(resources.local_cpus or len(os.sched_getaffinity(0))), float("inf")),))


def engines(resources: Resources) -> Placement:
    """The engines as they fit into the connected cluster."""
    return place_engines(resources, cluster.capacity())


def training_workers(resources: Resources, gpus: float) -> WorkerGroup:
    """The training workers as they fit into the connected cluster."""
    cpus = cluster.placeable_cpus(resources.tune_num_cpus)
    count, _ = place_workers(resources.tune_workers, cpus, gpus, cluster.capacity())
    return WorkerGroup(count, cpus, gpus)
