"""Candidates for requests: searched for every arm; no arm's results displace another's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest

from rayrec.config import load
from rayrec.data.synthetic_dataset import SyntheticDataset, make_synthetic_dataset
from rayrec.instructions.bm25 import Bm25
from rayrec.pipeline.instruction_ingest import ingest_instructions
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scoring_requests import request_queries, search_items, top_matches
from rayrec.pipeline.worker_cache import worker_cache

CONF = Path(__file__).parents[2] / "conf" / "demo.yaml"
USERS = pa.chunked_array([["ann", "bob"]])
ROWS = [
    {"user_id": "*", "arm": "", "preference": "", "intention": "boots"},
    {"user_id": "*", "arm": "christmas", "preference": "", "intention": "Christmas gifts"},
    {"user_id": "bob", "arm": "", "preference": "", "intention": "a red lamp"},
    {"user_id": "bob", "arm": "christmas", "preference": "", "intention": "a sofa"},
]
TITLES = ["red lamp", "boots", "gifts of boots", "Christmas boots", "Christmas gifts", "Christmas lamp", "sofa"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    return make_synthetic_dataset(tmp_path_factory.mktemp("shop"), seed=3, users=20)


@pytest.fixture
def context(shop: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    pa_csv.write_csv(pa.Table.from_pylist(ROWS), shop.data_root / "instructions.csv")
    arms = "arms.variants={llm: {}, christmas: {}, other: {}}"
    run = RunContext(load(CONF, [f"data.root={shop.data_root}", f"output.root={tmp_path}", arms]), shop.date)
    ingest_instructions(run)
    catalogue = pa.table({"title": TITLES, "category": pa.nulls(len(TITLES), pa.string())})
    catalogue = catalogue.append_column("attributes", pa.array([[]] * len(TITLES), pa.map_(pa.string(), pa.string())))
    monkeypatch.setattr("rayrec.pipeline.worker_cache.read_catalogue", lambda _: catalogue)
    return run


def test_each_arm_has_its_own_requests(context: RunContext) -> None:
    assert request_queries(context, USERS, ("llm",)) == [("boots",), ("a red lamp",)]
    assert request_queries(context, USERS, ("christmas",)) == [("Christmas gifts",), ("a sofa",)]


def test_requests_of_all_arms_that_share_candidates_are_searched(context: RunContext) -> None:
    everything = [{"boots", "Christmas gifts"}, {"a red lamp", "a sofa"}]
    for arms in (("llm", "christmas"), ("christmas", "llm"), ("llm", "christmas", "other")):
        assert [set(texts) for texts in request_queries(context, USERS, arms)] == everything
        assert all(len(texts) == 2 for texts in request_queries(context, USERS, arms))


@pytest.mark.parametrize("top", [0, 1, 2, 3])
def test_request_of_one_arm_does_not_displace_results_of_others(context: RunContext, top: int) -> None:
    alone = search_items(worker_cache(context).item_search, request_queries(context, USERS, ("llm",)), top)
    campaign = search_items(worker_cache(context).item_search, request_queries(context, USERS, ("christmas",)), top)
    both = search_items(worker_cache(context).item_search, request_queries(context, USERS, ("llm", "christmas")), top)
    assert alone.lengths.tolist() == [min(top, 3), min(top, 2)]
    for user in range(2):
        assert set(both[user]) == set(alone[user]) | set(campaign[user])


def test_without_request_nothing_is_found(context: RunContext) -> None:
    found = search_items(worker_cache(context).item_search, [(), ("boots",), ("no such thing",)], 5)
    assert found.lengths.tolist() == [0, 3, 0]
    assert found.values.dtype == np.int32
    assert len(search_items(worker_cache(context).item_search, [], 5)) == 0


@pytest.mark.parametrize("top", [0, 1, 2, 7, 50, 119, 120, 1000])
def test_top_results_match_a_full_sort_with_ties_to_the_first(top: int) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["red", "blue", "lamp", "cup", "tea"])
    documents = Bm25(" ".join(rng.choice(words, rng.integers(1, 4))) for _ in range(200))
    scores = documents.scores(["red lamp"])[0]
    order = np.argsort(-scores, kind="stable")[:top]
    found = top_matches(documents, "red lamp", top)
    assert found.tolist() == order[scores[order] > 0].tolist()
    assert len(np.unique(scores)) < 30 < np.count_nonzero(scores) < 200
