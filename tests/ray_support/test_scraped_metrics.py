"""A real Ray cluster's metrics endpoint, read as Prometheus reads it."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable

import ray
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from waiting import PATIENCE_S

from rayrec.pipeline import run_metrics
from rayrec.ray_support import ray_metrics
from rayrec.ray_support.ray_metrics import METRICS, PREFIX
from rayrec.reranking.engines import engine
from rayrec.reranking.engines.engine import EngineWork


def scraped(done: Callable[[dict[str, list[Sample]]], bool]) -> dict[str, list[Sample]]:
    """The samples of rayrec's metrics at the node's endpoint, by name, once they are as wanted."""
    (node,) = (each for each in ray.nodes() if each["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    until, found = time.monotonic() + PATIENCE_S, dict[str, list[Sample]]()
    while True:
        with urllib.request.urlopen(url, timeout=60) as answer:
            text = answer.read().decode()
        now: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.removeprefix(PREFIX) in METRICS:
                    now.setdefault(sample.name.removeprefix(PREFIX), []).append(sample)
        found |= now  # Ray shows a gauge in some answers only
        if done(found):
            return found
        assert time.monotonic() < until, f"not shown: {sorted(found)}"
        time.sleep(0.5)  # Ray exports every few seconds


ENGINE, KIND = "an engine of this test", "a kind of this test"  # other tests on the same cluster record, too


def test_prometheus_can_scrape_what_driver_and_workers_record(local_ray: None) -> None:
    @ray.remote
    def worker() -> None:
        engine._work[ENGINE] = EngineWork(prompts=3, prompt_tokens=100, cached_tokens=80)
        run_metrics.engine_work(on_gpu=False)

    run_metrics.input_read(rows=200, quarantined=5)
    run_metrics.shards_pending(8)
    run_metrics.shard_done(users=30, pending=7)
    run_metrics.shard_done(users=12, pending=6)
    ray_metrics.add_repeats({KIND: 2, "nothing": 0})
    ray.get(worker.remote())

    def value(found: dict[str, list[Sample]], name: str, **tags: str) -> float:
        samples = [each.value for each in found.get(name, []) if tags.items() <= each.labels.items()]
        return sum(samples)

    def all_there(found: dict[str, list[Sample]]) -> bool:
        return (
            value(found, "rayrec_quarantine_share") == 5 / 200
            and value(found, "rayrec_shards_pending") == 6
            and value(found, "rayrec_users_done_total") >= 42
            and value(found, "rayrec_shards_done_total") >= 2
            and value(found, "rayrec_repeats_total", kind=KIND) == 2
            and value(found, "rayrec_engine_prompts_total", engine=ENGINE) == 3
            and value(found, "rayrec_engine_prompt_tokens_total", engine=ENGINE) == 100
            and value(found, "rayrec_engine_cached_tokens_total", engine=ENGINE) == 80
        )

    found = scraped(all_there)
    assert not [each for each in found["rayrec_repeats_total"] if each.labels.get("kind") == "nothing"]
    (tokens,) = (each for each in found["rayrec_engine_prompt_tokens_total"] if each.labels["engine"] == ENGINE)
    assert tokens.labels["NodeAddress"]  # by which the dashboard groups
    for _ in range(2):  # a gauge that was set once is shown again and again
        scraped(lambda now: value(now, "rayrec_quarantine_share") == 5 / 200)
