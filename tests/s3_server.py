"""A real S3 server process (moto) for the tests, and a storage root on each back end.

Loaded as a plugin by conftest.py: any test may ask for `s3_server` or `storage_root`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

_START_DEADLINE = 60.0  # seconds; a busy machine needs some to import moto


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a moto server on a free port; AWS_* in the environment point every client and child at it."""
    import s3fs

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as environment, tempfile.TemporaryFile() as log:
        for name, value in settings.items():
            environment.setenv(name, value)
        command = [sys.executable, str(Path(__file__).with_name("s3_process.py")), str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(server, port)
            s3fs.S3FileSystem(use_listings_cache=False).mkdir("rayrec-tests")
            yield endpoint
        finally:
            server.kill()
            server.wait()


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_DEADLINE
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"moto.server ended with {server.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)  # polling, within the deadline
    raise TimeoutError("moto.server does not answer")


@pytest.fixture(params=["local", "s3"])
def storage_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root: a local folder, then a prefix on the S3 server."""
    if request.param == "local":
        return os.fspath(tmp_path / "root")
    request.getfixturevalue("s3_server")
    return f"s3://rayrec-tests/{uuid.uuid4().hex}"
