"""The node types of cluster.yaml on Ray's autoscaling test cluster: real autoscaler, real raylets, no cloud."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import yaml
from gpu_job import ENGINES, SHARDS
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray_heads import REPOSITORY, ray_head
from waiting import PATIENCE_S, line_of

from rayrec import read_slates
from rayrec.data.synthetic_dataset import SyntheticDataset, make_synthetic_dataset

pytestmark = pytest.mark.slow  # starts a cluster

_HERE = Path(__file__).parent
_FAKE_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"

# A small complete run: fits, tunes, and scores with one GPU per actor. The GPUs are only declared.
_SETTINGS = (
    *(
        "blend.cutoffs=0",
        "tuning.epochs=1",
        "tuning.layers=1",
        "tuning.width=32",
        "tuning.heads=1",
        "data.shards=2",
    ),
    *("rerank.engine=transformers", "resources.rerank_num_gpus=1", "resources.rerank_device=cpu"),
    *("resources.tune_num_cpus=1", "resources.fit_num_cpus=1", "resources.ingest_tasks=1", "resources.score_tasks=1"),
)


@dataclass(frozen=True)
class ClusterRun:
    """One job on the cluster: its output, and the worker nodes by type at each change, from none to none."""

    output: str
    nodes: list[dict[str, int]]

    def types(self) -> set[str]:
        return {each for moment in self.nodes for each in moment}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    return make_synthetic_dataset(tmp_path_factory.mktemp("shop"), users=40)


@pytest.fixture(scope="module")
def on_spot(shop: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> ClusterRun:
    """The daily job with spot capacity."""
    sets = (f"data.root={shop.data_root}", f"output.root={_slates_of(shop)}", *_SETTINGS)
    command = [sys.executable, "-m", "jobs.daily", "--config", "jobs/demo.yaml", "--date", shop.date.isoformat()]
    command += [part for each in sets for part in ("--set", each)]
    return _run_on(_FAKE_PROVIDER, command, tmp_path_factory.mktemp("spot"))


@pytest.fixture(scope="module")
def without_spot(tmp_path_factory: pytest.TempPathFactory) -> ClusterRun:
    """A job of the same shape, with four engines and without spot capacity."""
    command = [sys.executable, str(_HERE / "gpu_job.py")]
    return _run_on("scarce_spot.ScarceSpotWithFallback", command, tmp_path_factory.mktemp("scarce"))


def test_a_run_starts_a_gpu_node_that_is_removed_afterwards(on_spot: ClusterRun) -> None:
    assert any(moment.get("gpu_spot") for moment in on_spot.nodes)
    assert on_spot.nodes[0] == on_spot.nodes[-1] == {}


def test_a_run_on_autoscaled_nodes_publishes_every_user(on_spot: ClusterRun, shop: SyntheticDataset) -> None:
    slates = read_slates(str(_slates_of(shop)), shop.date, verify=True)
    for arm in ("control", "llm"):
        assert len(set(slates.filter(pc.field("arm") == arm)["user_id"].to_pylist())) == shop.users
    assert "prompts scored by transformers" in on_spot.output


def test_spot_nodes_are_preferred_and_bounds_are_respected(on_spot: ClusterRun) -> None:
    assert "gpu_on_demand" not in on_spot.types()
    bounds = {name: each["max_workers"] for name, each in _shipped()["available_node_types"].items()}
    assert all(count <= bounds[name] for moment in on_spot.nodes for name, count in moment.items())


def test_without_spot_capacity_the_job_runs_on_demand(without_spot: ClusterRun) -> None:
    shards = json.loads(without_spot.output.splitlines()[-1])
    assert len(shards) == SHARDS
    assert {row["gpus"] for row in shards} == {"[0]"}
    assert "gpu_on_demand" in without_spot.types()
    assert "gpu_spot" not in without_spot.types()
    assert without_spot.nodes[-1] == {}


def test_a_pool_gets_all_its_engines_before_a_shard_is_done(without_spot: ClusterRun) -> None:
    shards = json.loads(without_spot.output.splitlines()[-1])
    assert len({row["node"] for row in shards}) == ENGINES
    assert max(moment.get("gpu_on_demand", 0) for moment in without_spot.nodes) == ENGINES


def _slates_of(shop: SyntheticDataset) -> Path:
    return shop.data_root.parent / "out"


def _shipped() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())
    return content


def _on_this_machine(module: str, gcs_address: str) -> dict[str, Any]:
    """cluster.yaml with nodes that are local processes, with short timeouts, and small enough for two cores."""
    config = _shipped()
    config["provider"] = {
        "type": "external",
        "module": module,
        "on_demand_fallback": config["provider"]["on_demand_fallback"],
        "gcs_address": gcs_address,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "launch_multiple": True,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    config["idle_timeout_minutes"] = 0.1
    for node_type in config["available_node_types"].values():
        node_type["resources"]["CPU"] = min(node_type["resources"]["CPU"], 2)
    commands = {name: [] for name in config if name.endswith("_commands")}
    return {**config, **commands, "file_mounts": {}, "auth": {}}


def _run_on(provider: str, command: Sequence[str], folder: Path) -> ClusterRun:
    config = folder / "cluster.yaml"

    def write_config(address: str) -> None:
        config.write_text(yaml.safe_dump(_on_this_machine(provider, address)))

    autoscaler = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",  # as run by `ray up` and KubeRay
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "PYTHONPATH": os.pathsep.join([str(_HERE), *sys.path]),
    }
    head_options = ("--num-cpus=0", "--object-store-memory=200000000", f"--autoscaling-config={config}")
    with ray_head(*head_options, before=write_config, environment=autoscaler) as head:
        watch = subprocess.Popen(
            [sys.executable, str(_HERE / "watch_nodes.py")],
            env=head.reached_by(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        first = line_of(watch, watch.stdout)  # the watcher runs: no change can be missed
        output = head.run(command)
        seen, _ = watch.communicate(timeout=PATIENCE_S)
        return ClusterRun(output, [json.loads(line) for line in (first + seen).splitlines() if line.startswith("{")])
