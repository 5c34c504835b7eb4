"""The metrics of a job, and what the dashboard asks for."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from queue import SimpleQueue

import pytest
from waiting import PATIENCE_S

from rayrec.pipeline import run_metrics
from rayrec.ray_support import ray_metrics
from rayrec.ray_support.ray_metrics import METRICS, PREFIX

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


def test_a_gauge_is_sent_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray shows each value of a gauge in one export only."""
    sent: SimpleQueue[float] = SimpleQueue()

    class Gauge:
        def set(self, value: float, tags: dict[str, str]) -> None:
            sent.put(value)

    monkeypatch.setattr(ray_metrics, "_EVERY_S", 0.01)
    monkeypatch.setattr(ray_metrics, "_sender", [])
    monkeypatch.setattr(ray_metrics, "_gauges", {})
    monkeypatch.setattr(ray_metrics, "_metric", lambda name: Gauge())
    monkeypatch.setattr(ray_metrics.ray, "is_initialized", lambda: True)
    ray_metrics.put("rayrec_shards_pending", 8)
    ray_metrics.put("rayrec_shards_pending", 7)
    first = [sent.get(timeout=PATIENCE_S) for _ in range(5)]
    assert first[0] == 8
    assert first[-2:] == [7, 7]
    monkeypatch.setattr(ray_metrics.ray, "is_initialized", lambda: False)
    while ray_metrics._gauges:  # of a cluster that the process has left
        threading.Event().wait(0.01)
