"""Which URLs are opened: a short list of schemes, without credentials, and never repeated in an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayrec.config import load
from rayrec.errors import ConfigError, RayrecError, StorageError
from rayrec.instructions.templates import load_templates
from rayrec.pipeline.instruction_generation import OutputTable
from rayrec.storage import Storage
from rayrec.storage_url import check_url, hub_id, url_problem

CONF = Path(__file__).parents[1] / "jobs" / "demo.yaml"
SECRET = "hunter2-Xq"
REFUSED = [
    f"s3://key:{SECRET}@bucket/path",
    f"s3://key:{SECRET}/with-slash@bucket/path",
    f"s3://{SECRET}@bucket/path",
    f"s3://key%3A{SECRET}%40bucket/path",
    f"abfs://container:{SECRET}@account.dfs.core.windows.net/path",
    f"abfss://container@account.dfs.core.windows.net/path?sig={SECRET}",
    f"az://container/path?sv=2024-01-01&sig={SECRET}",
    f"s3://bucket/path?X-Amz-Credential=a&X-Amz-Signature={SECRET}",
    f"s3://bucket/path%3FX-Amz-Signature={SECRET}",
    f"gs://bucket/path?X-Goog-Signature={SECRET}",
    f"simplecache::s3://bucket/{SECRET}",
    f"zip://{SECRET}::s3://bucket/path.zip",
    f"zip::/tmp/{SECRET}.zip",
    f"filecache::file:///tmp/{SECRET}",
    f"https://{SECRET}@host/path",
    f"http://host/{SECRET}",
    f"ftp://user:{SECRET}@host/path",
    f"sftp://someone:{SECRET}@host/path",
    f"github://org:repo@{SECRET}/path",
    f"reference://{SECRET}",
    f"webhdfs://user:{SECRET}@host/",
    f"s3+x://{SECRET}",
    f"S3://{SECRET}",
    f"://{SECRET}",
    f"file://host/{SECRET}",
    f"file:/{SECRET}",
    f"/data/\x1b[31m{SECRET}",
    f"/data/{SECRET}\0",
]
OPENED = [
    "",
    "out",
    "/data/a b/ü#?x",
    "../data",
    "~/data",
    "/data/a::b",
    "file:///data",
    "s3://bucket",
    "s3://bucket/dt=2011-08-31/a b?c#d%41",
    "s3a://bucket/path@2",
    "gs://bucket/path",
    "az://container/path",
    "abfs://container@account.dfs.core.windows.net/path",
    "abfss://container@account.dfs.core.windows.net/a=b",
    "memory://tests",
]


@pytest.mark.parametrize("url", REFUSED)
def test_other_urls_are_refused_everywhere_without_being_repeated(url: str, tmp_path: Path) -> None:
    errors: list[RayrecError] = []
    for opening in (
        lambda: Storage(url),
        lambda: check_url(url, "--users"),
        lambda: OutputTable.at(f"{url}/table.parquet"),
        lambda: load_templates(url),
    ):
        with pytest.raises(StorageError) as refusal:
            opening()
        errors.append(refusal.value)
    quoted = url.replace("\0", "\\0").replace("\x1b", "\\e")
    for key in ("data.root", "output.root", "tuning.base", "instruction.templates", "data.interactions.path"):
        with pytest.raises(ConfigError) as refused:
            load(CONF, [f'{key}="{quoted}"'])
        errors.append(refused.value)
    assert not [error for error in errors if SECRET in str(error) or "\x1b" in str(error)]


@pytest.mark.parametrize("url", OPENED)
def test_paths_and_urls_of_the_list_are_taken(url: str) -> None:
    assert url_problem(url) is None
    check_url(url)


@pytest.mark.parametrize("key", ["rerank.checkpoint", "rerank.adapter"])
def test_checkpoints_of_a_text_reranker_follow_the_same_rule(key: str) -> None:
    with pytest.raises(ConfigError, match="must not hold a password") as refused:
        load(CONF, ["rerank.method=pointwise", f"{key}=s3://a:{SECRET}@bucket"])
    assert SECRET not in str(refused.value)


HUB = "hf://organisation/Some-Model.v2"
REVISION = "0123456789abcdef0123456789abcdef01234567"
CHECKPOINTS = ("tuning.base", "rerank.checkpoint", "rerank.adapter", "instruction.encoder")


def checkpoint_config(key: str, value: str) -> list[str]:
    more = ["rerank.method=pointwise", "rerank.checkpoint=/m"] if key.startswith("rerank.") else []
    return [*more, f"{key}={value}"]


@pytest.mark.parametrize("key", CHECKPOINTS)
def test_a_hubs_checkpoint_is_taken_at_a_commit_and_at_nothing_else(key: str) -> None:
    load(CONF, checkpoint_config(key, f"{HUB}@{REVISION}"))
    load(CONF, checkpoint_config(key, "s3://bucket/models/x"))
    for unpinned in ("", "@main", "@v1.0", f"@{REVISION[:12]}", f"@{REVISION}/sub", f"@{REVISION.upper()}"):
        with pytest.raises(ConfigError, match="needs the commit that is meant") as refused:
            load(CONF, checkpoint_config(key, f"{HUB}{unpinned}"))
        assert "40 hex digits" in str(refused.value)


@pytest.mark.parametrize(
    "name", ["one", "a/b/c", "../b", "a/..", "a/b..c", f"user:{SECRET}@host/b", "a/b c", "a/b?x=1"]
)
def test_what_is_no_repository_is_refused_without_being_repeated(name: str) -> None:
    assert hub_id(f"hf://{name}@{REVISION}") is None
    with pytest.raises(ConfigError, match="hf://organisation/name@REVISION") as refused:
        load(CONF, [f"tuning.base='hf://{name}@{REVISION}'"])
    assert SECRET not in str(refused.value)


def test_a_hub_is_no_place_for_data() -> None:
    for key in ("data.root", "output.root", "instruction.templates"):
        with pytest.raises(ConfigError, match="are not opened"):
            load(CONF, [f"{key}={HUB}@{REVISION}"])
