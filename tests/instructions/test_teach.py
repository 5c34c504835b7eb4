"""The table that `jobs.teach` writes by rules, against what the shop's users are known to care about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.teach import main as teach
from rayrec.config import load
from rayrec.contracts.schemas import INSTRUCTION
from rayrec.demo_shop import Shop, make_shop
from rayrec.pipeline.day import Day
from rayrec.pipeline.teach import by_rules, preferences

CONFIG = Path(__file__).resolve().parents[2] / "conf" / "demo.yaml"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("teach"), seed=5, users=80)


def sets(shop: Shop, root: Path, shards: int) -> list[str]:
    return [f"data.root={shop.data_root}", f"output.root={root}", f"data.shards={shards}"]


def run(shop: Shop, root: Path, shards: int) -> tuple[Path, str]:
    given = ["--config", str(CONFIG), *(part for one in sets(shop, root, shards) for part in ("--set", one))]
    table = root / "table.parquet"
    root.mkdir()
    done = CliRunner().invoke(teach, [*given, "--date", str(shop.date), "--table", str(table)])
    assert done.exit_code == 0, done.output
    return table, done.output


def test_the_table_is_a_table_of_instructions_whatever_the_shards(local_ray: None, shop: Shop, tmp_path: Path) -> None:
    one, said = run(shop, tmp_path / "one", 1)
    three, _ = run(shop, tmp_path / "three", 3)
    table = pq.read_table(one)
    assert table.schema.equals(INSTRUCTION)
    assert f"{table.num_rows:,} of" in said
    assert table.num_rows > 40
    order = [("user_id", "ascending")]
    assert table.sort_by(order).equals(pq.read_table(three).sort_by(order))
    by_user = dict(zip(table["user_id"].to_pylist(), table["preference"].to_pylist(), strict=True))
    again = Day(load(CONFIG, sets(shop, tmp_path / "one", 1)), shop.date)
    rows = [row for part in preferences(again, by_rules(again)) for row in part.to_pylist()]
    assert {row["user_id"]: row["preference"] for row in rows} == by_user
    assert (
        np.mean(["likes" in text or "enjoys" in text or "taken" in text or "goes" in text for text in by_user.values()])
        == 1
    )
