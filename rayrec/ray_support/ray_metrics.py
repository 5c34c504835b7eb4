"""Metrics of a job, through Ray: each node's metrics endpoint shows them to Prometheus.

`METRICS` is the registry: a metric has one name, one meaning and one set of tags. Ray puts `ray_` before the name and
adds tags of its own (node, worker). Without a connected cluster nothing is recorded. A metric never ends a run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

import ray
from ray.util import metrics

from rayrec.redaction import shown

PREFIX = "ray_"
"""What Ray puts before the name of a metric."""

_LOG = logging.getLogger(__name__)
_EVERY_S = 5.0  # Ray exports every ten seconds
_gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
_sender: list[threading.Thread] = []
_lock = threading.Lock()


@dataclass(frozen=True)
class Metric:
    kind: Literal["counter", "gauge"]  # what is added up, or a current value
    meaning: str
    tags: tuple[str, ...] = ()


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "rayrec_users_done_total": Metric("counter", "Users whose slates are committed."),
        "rayrec_shards_done_total": Metric("counter", "Shards that are committed."),
        "rayrec_shards_pending": Metric("gauge", "Shards of the run that are not committed yet."),
        "rayrec_repeats_total": Metric("counter", "Store calls and work items repeated after errors.", ("kind",)),
        "rayrec_quarantine_share": Metric("gauge", "Share of the input rows that broke their contract."),
        "rayrec_engine_prompts_total": Metric("counter", "Prompts that an LLM engine computed.", ("engine",)),
        "rayrec_engine_prompt_tokens_total": Metric("counter", "Tokens of these prompts.", ("engine",)),
        "rayrec_engine_cached_tokens_total": Metric(
            "counter", "Tokens of them that the prefix cache had, where the engine tells.", ("engine",)
        ),
        "rayrec_gpu_memory_used_bytes": Metric("gauge", "Memory in use on an engine's GPU, by anybody.", ("gpu",)),
        "rayrec_gpu_memory_total_bytes": Metric("gauge", "Memory of an engine's GPU.", ("gpu",)),
    }
)


def add(name: str, amount: float, **tags: str) -> None:
    """Add to a counter. KeyError for a name that METRICS lacks."""
    if amount > 0:
        _record(name, "counter", amount, tags)


def put(name: str, value: float, **tags: str) -> None:
    """Set a gauge. KeyError for a name that METRICS lacks."""
    _record(name, "gauge", value, tags)


def add_repeats(counts: Mapping[str, int]) -> None:
    """Repeats after errors of the store, by kind (rayrec.storage.retries)."""
    for kind, count in counts.items():
        add("rayrec_repeats_total", count, kind=kind)


def _record(name: str, kind: str, value: float, tags: dict[str, str]) -> None:
    known = METRICS[name]
    if known.kind != kind or set(known.tags) != set(tags):
        raise ValueError(f"{name} is a {known.kind} with the tags {known.tags}")
    if not ray.is_initialized():
        return
    if kind == "gauge":
        _keep(name, value, tags)
    _send(name, value, tags)


def _send(name: str, value: float, tags: dict[str, str]) -> None:
    known = METRICS[name]
    try:
        metric = _metric(name)
        metric.inc(value, tags=tags) if known.kind == "counter" else metric.set(value, tags=tags)
    except Exception as error:  # the run goes on without
        _LOG.warning("a metric is not recorded: %s: %s", name, shown(error))


def _keep(name: str, value: float, tags: dict[str, str]) -> None:
    """Remember a gauge, and let a thread send it again and again: Ray 2.60 shows each value in one export only."""
    with _lock:
        _gauges[name, tuple(sorted(tags.items()))] = value
        if not _sender:
            _sender.append(threading.Thread(target=_send_gauges, daemon=True, name="ray-metrics"))
            _sender[0].start()


def _send_gauges() -> None:
    while True:
        time.sleep(_EVERY_S)
        with _lock:
            if not ray.is_initialized():
                _gauges.clear()  # of a cluster that this process has left
            current = dict(_gauges)
        for (name, tags), value in current.items():
            _send(name, value, dict(tags))


@cache
def _metric(name: str) -> Any:
    known = METRICS[name]
    kind = metrics.Counter if known.kind == "counter" else metrics.Gauge
    return kind(name, description=known.meaning, tag_keys=known.tags)
