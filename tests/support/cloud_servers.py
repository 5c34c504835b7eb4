"""Servers of Google Cloud Storage and Azure Blob Storage for the tests: real protocols, on this machine.

Loaded as a plugin by conftest.py. Google's is gcp-storage-emulator (gcs_process.py). Azure's is Azurite, which is a
package of npm: `make test-azure` installs it into .azurite. Without it, and without an account in the environment, its
tests are skipped.
"""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import line_of

BUCKET, CARELESS = "rayrec-tests", "rayrec-careless"  # Google's; the second one ignores conditions
ACCOUNT = "RAYREC_TEST_AZURE"  # environment: the connection string of a storage account that tests may write to
REPOSITORY = Path(__file__).parents[2]
AZURITE = REPOSITORY / ".azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    """A root on a new server of Google's API; STORAGE_EMULATOR_HOST points every client and child at it."""
    command = [sys.executable, str(Path(__file__).with_name("gcs_process.py")), BUCKET, CARELESS]
    with running(command) as server, pytest.MonkeyPatch.context() as environment:
        environment.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{int(line_of(server, server.stdout))}")
        yield f"gs://{BUCKET}"


@pytest.fixture(scope="session")
def azure_server() -> Iterator[str]:
    """A new container of Azurite, or of the account in RAYREC_TEST_AZURE; the environment names the account."""
    container = f"rayrec-{uuid.uuid4().hex}"
    with pytest.MonkeyPatch.context() as environment:
        if given := os.environ.get(ACCOUNT):
            environment.setenv("AZURE_STORAGE_CONNECTION_STRING", given)
            with _container(container):
                yield f"az://{container}"
        elif AZURITE.is_file():
            key = base64.b64encode(secrets.token_bytes(32)).decode()
            environment.setenv("AZURITE_ACCOUNTS", f"rayrectests:{key}")
            options = ("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--blobPort", "0")
            with running(["node", str(AZURITE), *options]) as server:
                line = line_of(server, server.stdout, lambda line: "successfully listen" in line)
                endpoint = f"{line.split()[-1].rstrip('/')}/rayrectests"
                environment.setenv(
                    "AZURE_STORAGE_CONNECTION_STRING",
                    f"DefaultEndpointsProtocol=http;AccountName=rayrectests;AccountKey={key};BlobEndpoint={endpoint};",
                )
                with _container(container):
                    yield f"az://{container}"
        else:
            pytest.skip(f"no Azure server: run `make test-azure`, or set {ACCOUNT} to a connection string")


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield server
    finally:
        server.kill()
        server.communicate()


@contextmanager
def _container(name: str) -> Iterator[None]:
    from azure.storage.blob import BlobServiceClient

    with BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"]) as service:
        service.create_container(name)
        yield
        service.delete_container(name)
