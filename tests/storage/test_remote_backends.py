"""What differs between stores: clients that are missing, accounts, rights, and a store that ignores conditions."""

from __future__ import annotations

import base64
import os
import sys

import fsspec
import pytest
from cloud_servers import CARELESS
from fsspec.registry import _registry

from rayrec.errors import MissingFileError, StorageError
from rayrec.redaction import shown
from rayrec.storage import Storage
from rayrec.storage.remote_backends import AzureBackend, GoogleBackend, RemoteBackend, S3Backend, remote_backend
from rayrec.storage.retries import is_denied


@pytest.mark.parametrize(
    ("module", "root", "extra"),
    [("gcsfs.core", "gs://bucket/x", "gcs"), ("adlfs", "az://container/x", "azure"), ("adlfs", "abfss://c/x", "azure")],
)
def test_a_client_that_is_not_installed_is_named_with_its_extra(
    module: str, root: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(_registry, root.partition("://")[0], raising=False)
    with pytest.raises(StorageError, match=r"is not installed") as error:
        Storage(root).list()
    assert f"rayrec[{extra}]" in str(error.value)


def test_azure_without_an_account_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_STORAGE_")]:
        monkeypatch.delenv(name)
    fsspec.get_filesystem_class("az").clear_instance_cache()  # of an account that another test named
    with pytest.raises(StorageError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        Storage("az://container-without-account/x").list()


@pytest.mark.parametrize(
    ("root", "kind"),
    [("s3://b", S3Backend), ("s3a://b", S3Backend), ("memory://b", RemoteBackend)],
)
def test_a_scheme_has_its_backend(root: str, kind: type, s3_server: str) -> None:
    assert type(remote_backend(root)) is kind


def test_the_account_may_be_in_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"0" * 32).decode())
    backend = remote_backend("abfss://container@myaccount.dfs.core.windows.net/a")
    assert isinstance(backend, AzureBackend)
    assert backend._fs.account_name == "myaccount"
    assert backend._prefix == "container/a/"


def test_google_needs_credentials_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the tokens that gcsfs keeps in the home folder, and never none."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    with pytest.raises(StorageError, match="DefaultCredentialsError"):
        Storage("gs://bucket-without-credentials/x").list()


def test_a_real_server_that_ignores_conditions_is_refused(gcs_server: str) -> None:
    storage = Storage(f"gs://{CARELESS}/x")
    with pytest.raises(StorageError, match="ignores conditional writes"):
        storage.require_atomic_create()
    assert storage.list() == []


@pytest.mark.parametrize("server", ["gcs_server", "azure_server"])
@pytest.mark.parametrize("call", ["write", "create", "read"])
def test_a_missing_bucket_is_no_passing_error(server: str, call: str, request: pytest.FixtureRequest) -> None:
    scheme = request.getfixturevalue(server).partition("://")[0]
    with pytest.raises(MissingFileError, match="bucket"):
        getattr(Storage(f"{scheme}://no-such-bucket/x"), call)("f", *([] if call == "read" else [b"x"]))


def test_a_wrong_key_is_denied_with_words_and_without_the_key(
    azure_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = base64.b64encode(b"not this key, not this key, no no").decode()
    given = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    parts = [part for part in given.split(";") if part and not part.startswith("AccountKey=")]
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", ";".join([*parts, f"AccountKey={wrong}"]))
    fsspec.get_filesystem_class("az").clear_instance_cache()
    try:
        with pytest.raises(StorageError, match="access denied") as error:
            Storage(f"{azure_server}/denied").write("f", b"x")
        assert wrong not in str(error.value)
        assert wrong not in shown(error.value)
    finally:
        fsspec.get_filesystem_class("az").clear_instance_cache()


def test_what_is_denied() -> None:
    assert is_denied(OSError("Forbidden: https://storage.googleapis.com/b/o"))
    assert is_denied(PermissionError("no"))
    assert not is_denied(OSError("no space left on device"))
    assert GoogleBackend.extra == "gcs"
