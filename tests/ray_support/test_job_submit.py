"""`ray job submit --working-dir .` to a real head that requires a token."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from ray_heads import REPOSITORY, RayHead, command_of, environment_of, ray_head
from waiting import PATIENCE_S, line_of

from rayrec import read_slates
from rayrec.data.synthetic_dataset import make_synthetic_dataset

pytestmark = pytest.mark.slow  # starts a cluster

_PROBE = """
import ray, rayrec
from rayrec.ray_support.cluster import connect
from rayrec.config import Resources

with connect(Resources()) as cluster:
    where = ray.get(ray.remote(lambda: __import__("rayrec").__file__).remote())
    print("PROBE", cluster.local, rayrec.__file__, where)
"""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head("--num-cpus=2", "--object-store-memory=200000000", dashboard=True) as started:
        yield started


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's checkout, without files that git ignores."""
    folder = tmp_path_factory.mktemp("checkout") / "rayrec"
    leave_out = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "out", "demo-out", "build", "tests", "models", "soak"
    )
    shutil.copytree(REPOSITORY, folder, ignore=leave_out)
    (folder / "jobs" / "probe.py").write_text(_PROBE)
    return folder


def submit(
    head: RayHead, checkout: Path, command: Sequence[str], **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `ray job submit` from `checkout`; the result has the job's complete output."""
    return subprocess.run(
        ["ray", "job", "submit", "--address", head.jobs_url, "--working-dir", ".", "--", *command],
        cwd=checkout,
        env={**head.environment, **environment},
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_submitted_job_runs_its_own_code_on_the_cluster(head: RayHead, checkout: Path, tmp_path: Path) -> None:
    done = submit(head, checkout, ["python", "-m", "jobs.probe"], HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr + head.logs()
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("PROBE"))
    _, local, in_driver, in_task = line.split()
    assert local == "False"
    assert "working_dir_files" in in_driver  # not the checkout that is installed in this environment
    assert "working_dir_files" in in_task
    assert os.listdir(tmp_path) == []  # nothing is written to the home folder


def test_a_submitted_daily_job_publishes(head: RayHead, checkout: Path, tmp_path: Path) -> None:
    shop = make_synthetic_dataset(tmp_path, users=60)
    small = ("rerank.method=none", "blend.cutoffs=0", "data.shards=1")
    sets = (f"data.root={shop.data_root}", f"output.root={tmp_path / 'out'}", *small)
    command = ["python", "-m", "jobs.daily", "--config", "jobs/demo.yaml", "--date", shop.date.isoformat()]
    done = submit(head, checkout, [*command, *(part for each in sets for part in ("--set", each))])
    assert done.returncode == 0, done.stdout + done.stderr + head.logs()
    assert "score" in done.stdout  # the job's log shows its progress
    slates = read_slates(tmp_path / "out", shop.date, verify=True)
    assert len(set(slates["user_id"].to_pylist())) == 60


def test_rayrec_submit_gives_log_and_exit_code_though_the_dashboard_is_restarted(
    head: RayHead, checkout: Path, tmp_path: Path
) -> None:
    """The dashboard serves the job API. It is killed; the job ends; it is started again as the head had started it.

    `ray start --block` ends a head whose dashboard has died, so it is stopped first.
    """
    goes_on = tmp_path / "goes on"
    wait = f"while not os.path.exists({str(goes_on)!r}): time.sleep(0.1)"
    script = f"import os, sys, time\nprint('first', flush=True)\n{wait}\nprint('last')\nsys.exit(3)"
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.submit", "--address", head.jobs_url, "--", "python", "-c", script],
        cwd=checkout,
        env=dict(head.environment),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    line_of(process, process.stdout, lambda line: line == "first\n")
    (dashboard,) = (pid for pid in head.processes() if "dashboard/dashboard.py" in command_of(pid))
    command = Path(f"/proc/{dashboard}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    environment = dict(part.split("=", 1) for part in environment_of(dashboard).decode().split("\0") if part)
    (supervisor,) = (pid for pid in head.processes() if "ray start --head --block" in command_of(pid))
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(dashboard, signal.SIGKILL)
    line_of(process, process.stderr, lambda line: "does not answer" in line)
    goes_on.touch()
    with head.log.with_name("dashboard-again.log").open("wb") as sink:
        subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)  # ends with the head
    rest, words = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3, rest + words + head.logs()
    assert rest.splitlines().count("last") == 1
    assert "first" not in rest.splitlines()
    assert "answers again" in words


def test_a_wrong_token_is_refused(head: RayHead, checkout: Path) -> None:
    done = submit(head, checkout, ["python", "-m", "jobs.probe"], RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode != 0
    assert "token" in (done.stdout + done.stderr).lower()


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/version", "/nodes?view=summary"])
def test_requests_without_a_token_are_refused(head: RayHead, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(head.jobs_url + path, timeout=PATIENCE_S)
    assert refusal.value.code == 401
