"""A night in which somebody asks: a campaign for one arm, a request of one user, a checkpoint that reads titles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pytest
from nights import Made
from small_checkpoints import build

from rayrec import read_slates
from rayrec.demo_shop import make_shop
from rayrec.pipeline import daily
from rayrec.pipeline.daily import Night
from rayrec.pipeline.demonstrations import demonstration_pool
from rayrec.pipeline.ingest import histories
from rayrec.pipeline.models import cuts
from rayrec.pipeline.reporting import report_data
from rayrec.pipeline.rereading import read_reread
from rayrec.reranking import artefact

READER = (
    "{rerank: {method: yes_no, checkpoint: %s, depth: 2, engine: transformers, settings: "
    "{events: 2, item_tokens: 32, demonstrations: coverage, examples: 1, example_events: 2}}}"
)
ARMS = "arms.variants={llm: {}, campaign: {}, reader: %s}"
HEARD = (
    "tuning.asked_epochs=8",
    "tuning.batch_tokens=512",
    "tuning.learning_rate=0.01",
    "tuning.forms={search: 20, contrary: 10}",
    "blend.sample_users=60",
)


@pytest.fixture(scope="module")
def asked(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Night]:
    root = tmp_path_factory.mktemp("asked")
    made = Made(make_shop(root, seed=3, users=60), root / "out")
    table = {
        "user_id": ["*", "nobody"],
        "arm": ["campaign", ""],
        "preference": ["", ""],
        "intention": ["something in camping", "a boat"],
    }
    pa_csv.write_csv(pa.table(table), made.shop.data_root / "instructions.csv")
    reader = READER % build(root, "qwen3")
    return made, daily.run(made.day(made.root, ARMS % reader, *HEARD))


def top(made: Made, night: Night, arm: str) -> pa.Table:
    slates = read_slates(str(made.root), made.shop.date)
    slates = slates.filter((pc.field("arm") == arm) & (pc.field("rank") <= 10))
    items = pa_csv.read_csv(made.shop.data_root / "items.csv")
    place = pc.index_in(slates["item_id"], items["item_id"].combine_chunks())
    return slates.append_column("category", items["category"].take(place))


def share(table: pa.Table, category: str) -> float:
    return float(np.mean(pc.equal(table["category"], category)))


def test_a_campaign_of_one_arm_is_heard_in_that_arm(asked: tuple[Made, Night]) -> None:
    made, night = asked
    told, untold = (share(top(made, night, arm), "Camping") for arm in ("campaign", "llm"))
    assert told > 0.9 > untold + 0.4


def test_every_reading_is_counted_by_engine_and_way(asked: tuple[Made, Night]) -> None:
    made, night = asked
    slates = read_slates(str(made.root), made.shop.date)
    users = len(pc.unique(slates["user_id"]))
    assert night.manifest.engine == {"vllm: item_token": 2 * users, "transformers: yes_no": users}


def test_the_manifest_names_the_requests_and_the_checkpoint(asked: tuple[Made, Night]) -> None:
    _, night = asked
    inputs = {Path(file.path).name: file for file in night.manifest.inputs}
    assert inputs["instructions.csv"].rows == 2
    assert "qwen3@" in str(inputs["qwen3"].version)
    assert night.manifest.prompt_hash


def test_a_checkpoint_that_reads_titles_moves_only_what_it_read(asked: tuple[Made, Night]) -> None:
    made, night = asked
    reader, llm = (top(made, night, arm) for arm in ("reader", "llm"))
    assert reader.num_rows == llm.num_rows
    assert not reader["item_id"].equals(llm["item_id"])


def test_what_reads_texts_reads_some_again_by_their_titles_and_the_report_says_so(asked: tuple[Made, Night]) -> None:
    _, night = asked
    ((method, again),) = read_reread(night.day, night.manifest.run_id).items()
    assert method.startswith("yes_no-")
    assert 60 < again.num_rows <= 200
    shown = report_data(night, []).wording
    assert set(shown["method"].to_pylist()) == {method}
    assert set(shown["items"].to_pylist()) == {len(pc.unique(again["item"]))}


def test_the_report_says_what_was_heard(asked: tuple[Made, Night]) -> None:
    _, night = asked
    card = artefact.read_card(night.day.storage, night.models.llm if night.models and night.models.llm else "")
    assert card.settings["epochs"] == 8
    told = ("heard", "weighed", "arms", "named")
    rows = {row["text"]: tuple(row[name] for name in told) for row in report_data(night, []).asked.to_pylist()}
    assert rows == {
        "something in camping": ("something in camping", "camping", "campaign", True),
        None: (None, None, "", False),
    }


def test_worked_examples_are_of_users_as_of_the_oldest_cut(asked: tuple[Made, Night]) -> None:
    _, night = asked
    pool = demonstration_pool(night.day)
    assert 20 < len(pool) == len(set(pool.users)) <= 60
    first = cuts(night.day)[0]
    assert first < night.day.cut
    by_user = dict(zip(pool.users, range(len(pool)), strict=True))
    weight = np.asarray(night.day.event_weights)
    met = 0
    for shard in range(night.day.config.data.shards):
        for row in histories(night.day, shard).to_pylist():
            if row["user_id"] in by_user:
                rows = zip(row["item"], row["ts"], row["event"], strict=True)
                past = [item for item, ts, event in rows if ts < first and weight[event] > 0]
                place = by_user[row["user_id"]]
                assert [*pool.history[place], pool.taken[place]] == past
                met += 1
    assert met == len(pool)
