"""A whole run whose input and output are on Google Cloud Storage, and on Azure Blob Storage, as on a local folder."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from one_process import without_ray
from small_runs import differences
from tiny_runs import TinyShop

from rayrec import published_dates
from rayrec.pipeline import daily_run


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TinyShop:
    return TinyShop.make(tmp_path_factory.mktemp("shop"))


@pytest.mark.parametrize("server", ["gcs_server", "azure_server"])
def test_a_day_is_published_and_read_there(
    server: str, shop: TinyShop, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = f"{request.getfixturevalue(server)}/{uuid.uuid4().hex}"
    shop.copy_data(f"{root}/data")
    with without_ray():
        daily_run.run(shop.context(tmp_path / "out"))
        daily_run.run(shop.context(f"{root}/out", f"data.root={root}/data"))
        again = daily_run.run(shop.context(f"{root}/out", f"data.root={root}/data"))
    assert again.already_published
    assert published_dates(f"{root}/out") == [shop.dataset.date]
    published = shop.published(f"{root}/out")
    assert published.num_rows > 0
    assert not differences(published, shop.published(tmp_path / "out"), but=("slate_id",))
