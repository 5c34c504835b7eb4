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
from rayrec.instructions.facet_scheme import CATEGORY, FacetScheme
from rayrec.instructions.facets import Facets
from rayrec.instructions.request_understanding import Understanding
from rayrec.instructions.title_search import TitleIndex
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.instruction_ingest import ingest_instructions
from rayrec.pipeline.request_candidates import RequestSearch
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scoring_requests import request_queries
from rayrec.pipeline.worker_cache import worker_cache

CONF = Path(__file__).parents[2] / "jobs" / "demo.yaml"
USERS = pa.chunked_array([["ann", "bob"]])
ROWS = [
    {"user_id": "*", "arm": "", "preference": "", "intention": "boots"},
    {"user_id": "*", "arm": "christmas", "preference": "", "intention": "Christmas gifts"},
    {"user_id": "bob", "arm": "", "preference": "", "intention": "a red lamp"},
    {"user_id": "bob", "arm": "christmas", "preference": "", "intention": "a sofa"},
]
NO_FACETS = Facets(FacetScheme((), (), {}), Ragged.from_lengths(np.zeros(0, np.int64), [0] * 200))
TITLES = ["red lamp", "boots", "gifts of boots", "Christmas boots", "Christmas gifts", "Christmas lamp", "sofa"]
POPULARITY = np.zeros(7, np.float32)


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


def found_for(context: RunContext, arms: tuple[str, ...], top: int) -> Ragged:
    cache = worker_cache(context)
    search = RequestSearch(cache.item_search, cache.facets, cache.titles, np.zeros(len(TITLES), np.float32))
    queries = [[(text, cache.rules(text)) for text in row] for row in request_queries(context, USERS, arms)]
    return search(queries, top)


@pytest.mark.parametrize("top", [0, 1, 2, 3])
def test_request_of_one_arm_does_not_displace_results_of_others(context: RunContext, top: int) -> None:
    alone, campaign = found_for(context, ("llm",), top), found_for(context, ("christmas",), top)
    both = found_for(context, ("llm", "christmas"), top)
    assert alone.lengths.tolist() == [min(top, 3), min(top, 2)]
    for user in range(2):
        assert set(both[user]) == set(alone[user]) | set(campaign[user])


def test_without_request_nothing_is_found(context: RunContext) -> None:
    cache = worker_cache(context)
    search = RequestSearch(cache.item_search, cache.facets, cache.titles, POPULARITY)
    nothing = Understanding()
    found = search([(), (("boots", nothing),), (("no such thing", nothing),)], 5)
    assert found.lengths.tolist() == [0, 3, 0]
    assert found.values.dtype == np.int32
    assert len(search([], 5)) == 0


@pytest.mark.parametrize("top", [1, 2, 7, 50, 119, 120, 1000])
def test_best_items_match_a_full_sort_with_ties_to_the_popular(top: int) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["red", "blue", "lamp", "cup", "tea"])
    documents = Bm25(" ".join(rng.choice(words, rng.integers(1, 4))) for _ in range(200))
    popularity = rng.integers(0, 3, 200).astype(np.float32)
    scores = documents.scores(["red lamp"])[0]
    order = np.lexsort((np.arange(200), -popularity, -scores))[:top]
    found = RequestSearch(documents, NO_FACETS, TitleIndex([]), popularity).best(scores, top)
    assert found.tolist() == order[scores[order] > 0].tolist()
    assert len(np.unique(scores)) < 30 < np.count_nonzero(scores) < 200


def test_both_lists_are_fused_and_items_with_an_unwanted_facet_left_out() -> None:
    """Items 0 to 4 have the words, 2 to 5 the wanted facet, 4 and 5 the unwanted one too."""
    documents = Bm25(["tea cup"] * 5 + ["lamp"] * 3)
    facets = Facets(
        FacetScheme((CATEGORY, CATEGORY), ("a", "b"), {}),
        Ragged.from_lengths(np.array([0, 0, 0, 1, 0, 1]), [0, 0, 1, 1, 2, 2, 0, 0]),
    )
    popularity = np.array([1, 0, 0, 5, 9, 9, 9, 9], np.float32)
    search = RequestSearch(documents, facets, TitleIndex([]), popularity)
    assert search.find("a tea cup", Understanding(((0, 0.6), (1, -1.0))), 10).tolist() == [3, 2, 0, 1]
    assert search.find("nothing", Understanding(((0, 0.6),)), 2).tolist() == [4, 5]
    assert search.find("a tea cup", Understanding(), 2).tolist() == [4, 3]
