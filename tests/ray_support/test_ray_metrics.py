"""The metrics of a job: what Ray's endpoint shows to Prometheus, and what the dashboard asks for."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from waiting import PATIENCE_S

from rayrec.pipeline import run_metrics
from rayrec.ray_support import ray_metrics
from rayrec.ray_support.ray_metrics import METRICS, PREFIX
from rayrec.reranking.engines import engine
from rayrec.reranking.engines.engine import EngineWork

REPOSITORY = Path(__file__).parents[2]
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "rayrec.json"


def asked() -> dict[str, set[str]]:
    """The metrics that each panel of the dashboard asks for."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf8"))["panels"]
    found: dict[str, set[str]] = {}
    for panel in panels:
        queries = " ".join(target["expr"] for target in panel["targets"])
        found[panel["title"]] = set(re.findall(r"\bray_\w+", queries))
    return found


def test_every_panel_asks_for_metrics_that_the_job_records_and_every_metric_has_a_panel() -> None:
    panels = asked()
    assert all(panels.values())
    assert {name for names in panels.values() for name in names} == {PREFIX + name for name in METRICS}


def test_every_metric_is_recorded_somewhere() -> None:
    code = "".join(path.read_text() for path in (REPOSITORY / "rayrec").rglob("*.py"))
    assert {name for name in METRICS if not re.search(rf'(add|put)\("{name}"', code)} == set()


def test_the_labels_that_the_dashboard_groups_by_are_tags() -> None:
    text = DASHBOARD.read_text(encoding="utf8")
    tags = {tag for metric in METRICS.values() for tag in metric.tags}
    grouped = {label for labels in re.findall(r"by \(([\w, ]+)\)", text) for label in labels.split(", ")}
    assert grouped - {"NodeAddress"} <= tags  # which Ray adds
    assert set(re.findall(r"\{\{(\w+)\}\}", text)) <= tags | {"NodeAddress"}


def test_names_are_those_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"rayrec_[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind == "counter")


def test_a_wrong_name_kind_or_tag_is_a_defect_of_the_caller() -> None:
    with pytest.raises(KeyError):
        ray_metrics.add("rayrec_unknown_total", 1)
    with pytest.raises(ValueError, match="gauge"):
        ray_metrics.add("rayrec_quarantine_share", 1)
    with pytest.raises(ValueError, match="kind"):
        ray_metrics.add("rayrec_repeats_total", 1)


def test_without_a_cluster_nothing_is_recorded_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_metrics.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_metrics, "_metric", lambda name: pytest.fail("recorded"))
    ray_metrics.put("rayrec_quarantine_share", 0.5)


def test_a_metric_that_fails_ends_no_run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("the agent is gone")

    monkeypatch.setattr(ray_metrics.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray_metrics, "_metric", broken)
    ray_metrics.put("rayrec_quarantine_share", 0.5)
    assert "the agent is gone" in caplog.text


def test_gpu_memory_is_that_of_each_gpu_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float, str]] = []
    monkeypatch.setattr(ray_metrics, "put", lambda name, value, gpu: seen.append((name, value, gpu)))
    monkeypatch.setattr(run_metrics.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(run_metrics.torch.cuda, "mem_get_info", lambda gpu: (30 + gpu, 100))
    run_metrics.engine_work(on_gpu=True)
    assert [(name, value) for name, value, gpu in seen if gpu == "1"] == [
        ("rayrec_gpu_memory_used_bytes", 69),
        ("rayrec_gpu_memory_total_bytes", 100),
    ]
    seen.clear()
    run_metrics.engine_work(on_gpu=False)
    assert seen == []


def scraped(done: Callable[[dict[str, list[Sample]]], bool]) -> dict[str, list[Sample]]:
    """The samples of rayrec's metrics at the node's endpoint, by name, once they are as wanted."""
    import ray

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


def test_prometheus_can_scrape_what_driver_and_workers_record(local_ray: None) -> None:
    import ray

    @ray.remote
    def worker() -> None:
        engine._work["vllm"] = EngineWork(prompts=3, prompt_tokens=100, cached_tokens=80)
        run_metrics.engine_work(on_gpu=False)

    run_metrics.input_read(rows=200, quarantined=5)
    run_metrics.shards_pending(8)
    run_metrics.shard_done(users=30, pending=7)
    run_metrics.shard_done(users=12, pending=6)
    ray_metrics.add_repeats({"storage calls": 2, "work items": 0})
    ray.get(worker.remote())
    wanted = {name for name in METRICS if "gpu" not in name}
    samples = scraped(lambda found: wanted <= set(found))
    for _ in range(2):  # a gauge that was set once is shown again and again
        assert scraped(lambda found: "rayrec_quarantine_share" in found)["rayrec_quarantine_share"][0].value == 5 / 200
    values = {name: sum(sample.value for sample in samples[name]) for name in wanted}
    assert values["rayrec_quarantine_share"] == 5 / 200
    assert values["rayrec_shards_pending"] == 6
    assert values["rayrec_users_done_total"] == 42
    assert values["rayrec_shards_done_total"] == 2
    (repeats,) = samples["rayrec_repeats_total"]
    assert (repeats.labels["kind"], repeats.value) == ("storage calls", 2)
    (tokens,) = samples["rayrec_engine_prompt_tokens_total"]
    assert (tokens.labels["engine"], tokens.value) == ("vllm", 100)
    assert values["rayrec_engine_cached_tokens_total"] == 80
    assert tokens.labels["NodeAddress"]
