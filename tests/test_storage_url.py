"""Which URLs are opened: a short list of schemes, without credentials, and never repeated in an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayrec.config import load
from rayrec.errors import ConfigError, RayrecError, StorageError
from rayrec.instructions.templates import load_templates
from rayrec.pipeline.instruction_generation import OutputTable
from rayrec.storage import Storage
from rayrec.storage_url import check_url, url_problem

CONF = Path(__file__).parents[1] / "conf" / "demo.yaml"
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
