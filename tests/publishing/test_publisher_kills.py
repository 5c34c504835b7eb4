"""kill -9 at each step of a publishing run: readers see nothing, and the next run gives the same rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_day import ARMS, DATE, SHARDS, publish_day, record, whole_day

from rayrec import read_slates
from rayrec.errors import PublicationError
from rayrec.publishing import PublishingRun, find_manifest
from rayrec.storage import Storage

pytestmark = pytest.mark.slow  # starts processes

# The run's process kills itself before or right after a named storage call.
_SCRIPT = """
import os, signal, sys
from small_day import publish_day
from rayrec.storage import Storage

root, method, part, when = sys.argv[1:]
plain = getattr(Storage, method)

def killing(self, path, *args):
    if part not in path:
        return plain(self, path, *args)
    if when == "after":
        plain(self, path, *args)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Storage, method, killing)
publish_day(Storage(root))
"""

# step, storage call, its path, before or after, number of receipts then
STEPS = [
    ("while the run is opened", "create", "run.json", "before", 0),
    ("after the run is opened", "create", "run.json", "after", 0),
    ("before the first file", "writer", "shard=0000-", "before", 0),
    ("after a file, before its receipt", "create", "receipts/shard=0000", "before", 0),
    ("between two shards", "create", "receipts/shard=0001", "after", 2),
    ("mid-shard, between two arms", "writer", "arm=llm/shard=0001-", "before", 1),
    ("after the last receipt", "create", "receipts/shard=0002", "after", 3),
    ("before the publication", "create", "manifest.json", "before", 3),
]


def killed(root: str, method: str, part: str, when: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", _SCRIPT, root, method, part, when], env=environment)
    assert ended.returncode == -signal.SIGKILL


def assert_resumes_with_the_same_rows(storage: Storage) -> None:
    publish_day(storage)
    assert read_slates(storage.root, DATE, verify=True).equals(whole_day())
    files = [file.path for file in storage.list("slates") if file.path.endswith(".parquet")]
    assert len(files) == SHARDS * len(ARMS)  # leftovers of killed attempts are deleted


@pytest.mark.parametrize(("step", "method", "part", "when", "receipts"), STEPS, ids=[step[0] for step in STEPS])
def test_a_killed_run_publishes_nothing_and_resumes(
    tmp_path: Path, step: str, method: str, part: str, when: str, receipts: int
) -> None:
    storage = Storage(str(tmp_path))
    killed(storage.root, method, part, when)
    with pytest.raises(PublicationError, match="nothing is published here"):
        read_slates(storage.root, DATE)
    assert len(PublishingRun(storage, record()).receipts()) == receipts, step
    assert_resumes_with_the_same_rows(storage)


@pytest.mark.parametrize("part", ["receipts/shard=0001", "manifest.json"])
def test_a_killed_run_on_either_backend_publishes_nothing_and_resumes(storage_root: str, part: str) -> None:
    storage = Storage(storage_root)
    killed(storage.root, "create", part, "before")
    assert find_manifest(storage, DATE) is None
    assert_resumes_with_the_same_rows(storage)


def test_a_rerun_cleans_up_a_run_killed_right_after_publishing(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    killed(storage.root, "create", "receipts/shard=0000", "before")  # leaves two files without a receipt
    killed(storage.root, "create", "manifest.json", "after")
    assert read_slates(storage.root, DATE, verify=True).equals(whole_day())
    manifest = storage.read("slates/dt=2011-08-31/manifest.json")
    assert len(storage.list("slates")) == SHARDS * len(ARMS) + 2 + 1
    assert_resumes_with_the_same_rows(storage)
    assert storage.read("slates/dt=2011-08-31/manifest.json") == manifest
    assert len(storage.list("slates")) == SHARDS * len(ARMS) + 1
