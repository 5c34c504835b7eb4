"""A real S3 server process (moto) for the tests, and a storage root on each back end.

Loaded as a plugin by conftest.py: any test may use `s3_server`, `storage_root` and `storage`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import s3_faults
from waiting import line_of

from rayrec.storage import Storage


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a moto server on a free port; AWS_* in the environment point every client and child at it."""
    with running_s3() as endpoint:
        yield endpoint


@contextmanager
def running_s3() -> Iterator[str]:
    """As the fixture: for a script."""
    import s3fs

    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            environment.setenv(name, value)
        command = [sys.executable, str(Path(__file__).with_name("s3_process.py"))]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            endpoint = f"http://127.0.0.1:{int(line_of(server, server.stdout))}"  # it listens: the line comes after
            environment.setenv("AWS_ENDPOINT_URL", endpoint)
            s3fs.S3FileSystem(use_listings_cache=False).mkdir("rayrec-tests")
            yield endpoint
        finally:
            server.kill()
            server.communicate()


@pytest.fixture
def failing_bucket(s3_server: str) -> Callable[[int, int], str]:
    """failing_bucket(percent, seed): the root of a new bucket where that share of requests fails."""
    return make_failing_bucket


def make_failing_bucket(percent: int, seed: int) -> str:
    """As the fixture's function: for a script."""
    import s3fs

    name = s3_faults.bucket(percent, seed, "".join(random.choices("abcdefghij", k=8)))
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
    return f"s3://{name}"


def injected(endpoint: str, root: str) -> dict[str, int]:
    """How many requests a failing bucket had, and how many faults of each kind."""
    bucket = root.removeprefix("s3://").partition("/")[0]
    with urllib.request.urlopen(f"{endpoint}/_faults/{bucket}") as answer:
        found: dict[str, int] = json.load(answer)
    return found


@pytest.fixture(params=["local", "s3"])
def storage_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root: a local folder, then a prefix on the S3 server."""
    return empty_root(request, tmp_path)


def empty_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A root where the parameter says: local, s3, gs or az."""
    if request.param == "local":
        return os.fspath(tmp_path / "root")
    if request.param == "s3":
        request.getfixturevalue("s3_server")
        return f"s3://rayrec-tests/{uuid.uuid4().hex}"
    server: str = request.getfixturevalue("gcs_server" if request.param == "gs" else "azure_server")
    return f"{server}/{uuid.uuid4().hex}"


@pytest.fixture
def storage(storage_root: str) -> Storage:
    return Storage(storage_root)
