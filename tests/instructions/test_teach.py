"""The table that `jobs.teach` writes: complete, at the given path, a profile text for each user."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import ray
import test_teach as this_module
import tiny_chat
from typer.testing import CliRunner

from jobs.teach import main as teach
from rayrec.config import load
from rayrec.data.schemas import INSTRUCTION
from rayrec.data.synthetic_dataset import SyntheticDataset, make_synthetic_dataset
from rayrec.instructions.teachers.answer_cache import Answer
from rayrec.instructions.teachers.llm_teacher import LlmTeacher
from rayrec.pipeline.instruction_generation import (
    OutputTable,
    generate_profiles,
    generator_settings,
    preferences,
    rule_profiles,
)
from rayrec.pipeline.interaction_ingest import ingest
from rayrec.pipeline.run_context import RunContext
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.storage import Storage

ray.cloudpickle.register_pickle_by_value(this_module)  # workers cannot import a test

CONFIG = Path(__file__).resolve().parents[2] / "jobs" / "demo.yaml"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    return make_synthetic_dataset(tmp_path_factory.mktemp("teach"), seed=5, users=80)


def sets(shop: SyntheticDataset, root: Path, shards: int) -> list[str]:
    return [f"data.root={shop.data_root}", f"output.root={root}", f"data.shards={shards}"]


def run(shop: SyntheticDataset, root: Path, shards: int) -> tuple[Path, str]:
    given = ["--config", str(CONFIG), *(part for one in sets(shop, root, shards) for part in ("--set", one))]
    table = root / "table.parquet"
    root.mkdir()
    done = CliRunner().invoke(teach, [*given, "--date", str(shop.date), "--table", str(table)])
    assert done.exit_code == 0, done.output
    return table, done.output


def test_table_is_a_valid_instruction_table_for_any_number_of_shards(
    local_ray: None, shop: SyntheticDataset, tmp_path: Path
) -> None:
    one, said = run(shop, tmp_path / "one", 1)
    three, _ = run(shop, tmp_path / "three", 3)
    table = pq.read_table(one)
    assert table.schema.equals(INSTRUCTION)
    assert f"{table.num_rows:,} of" in said
    assert table.num_rows > 40
    order = [("user_id", "ascending")]
    assert table.sort_by(order).equals(pq.read_table(three).sort_by(order))
    by_user = dict(zip(table["user_id"].to_pylist(), table["preference"].to_pylist(), strict=True))
    again = RunContext(load(CONFIG, sets(shop, tmp_path / "one", 1)), shop.date)
    rows = [row for part in preferences(again, rule_profiles(again)) for row in part.to_pylist()]
    assert {row["user_id"]: row["preference"] for row in rows} == by_user
    assert all(any(verb in text for verb in ("likes", "enjoys", "taken", "goes")) for text in by_user.values())


class LikesTea:
    """Always gives the same answer."""

    def __init__(self, folder: Path, max_prompt_tokens: int, new_tokens: int) -> None:
        pass

    def generate_json(self, prompts: Sequence[list[int]], schema: Mapping[str, Any]) -> list[Answer]:
        return [Answer('{"preference": "likes tea"}', True) for _ in prompts]


def never(folder: Path, max_prompt_tokens: int, new_tokens: int) -> LikesTea:
    raise AssertionError("the engine was started")


def test_llm_generates_in_a_task_and_answers_are_cached(
    local_ray: None, shop: SyntheticDataset, tmp_path: Path
) -> None:
    day = RunContext(load(CONFIG, sets(shop, tmp_path / "out", 2)), shop.date)
    users = ingest(day).users
    checkpoint = tiny_chat.save(tmp_path / "chat")
    first = generate_profiles(day, LlmTeacher(checkpoint, day.storage, start=LikesTea))
    assert first.table.schema.equals(INSTRUCTION)
    assert set(first.table["preference"].to_pylist()) == {"likes tea"}
    assert first.counts["rows"] == users >= first.table.num_rows > 40
    again = generate_profiles(day, LlmTeacher(checkpoint, day.storage, start=never))
    assert again.table.equals(first.table)
    assert "generated" not in again.counts


def test_generator_settings_come_from_the_config() -> None:
    given = ["resources.rerank_threads=3", "resources.vllm={gpu_memory_utilization: 0.5}"]
    options = {"gpu_memory_utilization": 0.5}
    assert generator_settings(load(CONFIG, given).resources) == EngineSettings(device="cpu", threads=3, vllm=options)
    gpu = load(CONFIG, [*given, "resources.rerank_num_gpus=1"]).resources
    assert generator_settings(gpu) == EngineSettings(device="cuda", threads=3, vllm=options)


@pytest.mark.parametrize(
    ("table", "override", "message"),
    [
        ("a file/table.parquet", "slate.size=20", "a file"),
        (".", "slate.size=20", "this is a folder"),
        ("table.parquet", "denoise.settings={nonsense: 1}", "nonsense"),
    ],
)
def test_invalid_arguments_are_refused_before_reading(
    shop: SyntheticDataset, tmp_path: Path, table: str, override: str, message: str
) -> None:
    (tmp_path / "a file").touch()
    given = [word for one in [*sets(shop, tmp_path / "out", 1), override] for word in ("--set", one)]
    where = ["--date", str(shop.date), "--table", f"{tmp_path}/{table}"]
    done = CliRunner().invoke(teach, ["--config", str(CONFIG), *given, *where])
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"a file"}


def test_table_is_written_atomically_on_s3_too(s3_server: str, tmp_path: Path) -> None:
    table = INSTRUCTION.empty_table()
    for root in (str(tmp_path), "s3://rayrec-tests/teach"):
        target = OutputTable.at(f"{root}/table.parquet")
        assert Storage(root).list() == []
        target.write(table)
        assert [info.path for info in Storage(root).list()] == ["table.parquet"]
        before = Storage(root).read("table.parquet")
        with pytest.raises(AttributeError):
            OutputTable.at(f"{root}/table.parquet").write(None)
        assert Storage(root).read("table.parquet") == before


def test_attributes_of_items_are_read_back_as_items(local_ray: None, shop: SyntheticDataset, tmp_path: Path) -> None:
    titles = csv.read_csv(Path(shop.data_root) / "items.csv")["title"].to_pylist()
    word = Counter(word for title in titles for word in re.findall("[a-z]{3,}", title.lower())).most_common(1)[0][0]
    schema = tmp_path / "schema.yaml"
    schema.write_text(f"sort: {{values: {{common: [{word}], rare: [unheard]}}}}\n")
    table = Path(shop.data_root) / "with_attributes.parquet"
    given = [part for one in sets(shop, tmp_path / "out", 2) for part in ("--set", one)]
    given += ["--set", "instruction.encoder=null", "--date", str(shop.date), "--table", str(table)]
    done = CliRunner().invoke(teach, ["--config", str(CONFIG), *given, "--attributes", str(schema)])
    assert done.exit_code == 0, done.output
    assert "items with sort" in done.output
    line = next(line for line in done.output.splitlines() if line.startswith("data.items: "))
    config = load(CONFIG, [*sets(shop, tmp_path / "again", 2), line.replace(": ", "=", 1)])
    catalogue = ingest(RunContext(config, shop.date)).catalogue
    found = [dict(pairs).get("sort") for pairs in catalogue["attributes"].to_pylist()]
    named = [re.search(rf"\b{word}(s|es)?\b", title.lower()) is not None for title in catalogue["title"].to_pylist()]
    assert found == ["common" if has else None for has in named]
    assert any(named)
