"""The instruction table of a run: read once, listed among the inputs, separate for configs with other arms."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import load
from rayrec.data import erasure_list
from rayrec.data.schemas import INSTRUCTION
from rayrec.data.synthetic_dataset import INSTRUCTION_SHARE, SyntheticDataset, make_synthetic_dataset
from rayrec.data.synthetic_products import CATEGORIES
from rayrec.instructions.instruction_table import instructions_for
from rayrec.pipeline.instruction_ingest import INSTRUCTION_REASON_PREFIX, ingest_instructions, instruction_table
from rayrec.pipeline.run_context import RunContext

CONF = Path(__file__).parents[2] / "jobs" / "demo.yaml"
LOOSE = "data.instructions.max_quarantine_share=0.5"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    return make_synthetic_dataset(tmp_path_factory.mktemp("shop"), seed=3, users=60)


def day(shop: SyntheticDataset, out: Path, *overrides: str) -> RunContext:
    return RunContext(load(CONF, [f"data.root={shop.data_root}", f"output.root={out}", *overrides]), shop.date)


def shop_with(root: Path, rows: str) -> SyntheticDataset:
    shop = make_synthetic_dataset(root, seed=3, users=20)
    with (shop.data_root / "instructions.csv").open("a") as file:
        file.write(rows)
    return shop


def test_demo_table_is_valid_and_names_user_tastes(shop: SyntheticDataset, tmp_path: Path) -> None:
    context = day(shop, tmp_path)
    counts = ingest_instructions(context)
    table = instruction_table(context)
    assert counts.quarantined == {}
    assert counts.rows == {"instructions.csv": table.num_rows}
    assert table.schema == INSTRUCTION
    assert 0.2 < table.num_rows / shop.users / INSTRUCTION_SHARE < 1.8
    users = pd.read_csv(shop.truth_root / "next.csv", dtype=str)["user_id"].to_list()
    preference, intention = instructions_for(table, pa.array(users), "llm")
    said = [text for text in [*preference.to_pylist(), *intention.to_pylist()] if text is not None]
    assert len(said) == table.num_rows
    assert preference.null_count < len(users) > intention.null_count
    kinds = [kind.lower() for kind in CATEGORIES]
    assert all(any(kind in text for kind in kinds) for text in said)


def test_table_is_an_input_and_part_of_the_data_fingerprint(shop: SyntheticDataset, tmp_path: Path) -> None:
    context, without = day(shop, tmp_path), day(shop, tmp_path, "data.instructions=null")
    assert "instructions.csv" in [file.path for file in context.record.inputs]
    assert "instructions.csv" not in [file.path for file in without.record.inputs]
    assert context.data_fingerprint != without.data_fingerprint
    assert ingest_instructions(without).rows == {}
    assert instruction_table(without).equals(INSTRUCTION.empty_table())


def test_second_run_reuses_the_table(shop: SyntheticDataset, tmp_path: Path) -> None:
    context = day(shop, tmp_path)
    counts = ingest_instructions(context)
    again = day(shop, tmp_path)
    again.__dict__["instruction_files"] = ()  # nothing can be read
    again.__dict__["data_fingerprint"] = context.data_fingerprint
    assert ingest_instructions(again) == counts
    assert instruction_table(again).equals(instruction_table(context))


def test_configs_with_other_arms_share_the_work_folder_but_not_the_table(tmp_path: Path) -> None:
    shop = shop_with(tmp_path, "user-0001,mars,,cups\n")
    ours = day(shop, tmp_path / "out", LOOSE)
    theirs = day(shop, tmp_path / "out", LOOSE, "arms.variants={llm: {}, mars: {}}")
    assert ours.work_folder == theirs.work_folder
    assert ingest_instructions(ours).quarantined == {f"{INSTRUCTION_REASON_PREFIX}unknown_arm": 1}
    assert ingest_instructions(theirs).quarantined == {}
    assert instruction_table(theirs).num_rows == instruction_table(ours).num_rows + 1
    kept = [file for file in ours.storage.list(ours.quarantine) if "instructions" in file.path]
    assert [pq.read_table(ours.storage.url(file.path))["reason"].to_pylist() for file in kept] == [["unknown_arm"]]


def test_requests_of_erased_users_are_dropped(tmp_path: Path) -> None:
    shop = shop_with(tmp_path, "user-0001,mars,,cups\nuser-0002,mars,,cups\n")
    before = day(shop, tmp_path / "out", LOOSE)
    ingest_instructions(before)
    gone = instruction_table(before)["user_id"].to_pylist()[1]
    erasure_list.add(before.storage, pa.array([gone, "user-0001"]))
    after = day(shop, tmp_path / "out", LOOSE)
    counts = ingest_instructions(after)
    expected = [user for user in instruction_table(before)["user_id"].to_pylist() if user not in (gone, "user-0001")]
    assert instruction_table(after)["user_id"].to_pylist() == expected
    assert counts.quarantined == {f"{INSTRUCTION_REASON_PREFIX}unknown_arm": 1}
    kept = [file.path for file in after.storage.list(after.quarantine) if "instructions" in file.path]
    assert [pq.read_table(after.storage.url(path))["user_id"].to_pylist() for path in kept] == [["user-0002"]]


def test_other_max_chars_gives_another_table(shop: SyntheticDataset, tmp_path: Path) -> None:
    context, short = day(shop, tmp_path), day(shop, tmp_path, "instruction.max_chars=6")
    for one in (context, short):
        ingest_instructions(one)
    whole, cut = (set(instruction_table(one)["intention"].drop_null().to_pylist()) for one in (context, short))
    assert all(text.startswith("something in ") for text in whole)
    assert cut == {"someth"}
    assert set(instruction_table(short)["preference"].drop_null().to_pylist()) == {"likes"}
