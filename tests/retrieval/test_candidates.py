"""Candidates, compared with a plain loop over users."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from halves_shop import ITEMS, denoised, fit_data, history_table, two_halves

from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.retrieval.ease import EaseRetriever
from rayrec.retrieval.popularity import PopularityRetriever
from rayrec.retrieval.retriever import all_item_scores
from rayrec.retrieval.user_knn import UserKnnRetriever

EVERYTHING = np.ones(ITEMS, np.bool_)


def stage(top: int = 5, available: np.ndarray = EVERYTHING, exclude_seen: bool = True) -> CandidateStage:
    data = fit_data(two_halves())
    sources = (
        Source("ease", top, EaseRetriever.fit(data, EaseRetriever.settings_class(regularization=5.0))),
        Source("user_knn", top, UserKnnRetriever.fit(data, UserKnnRetriever.settings_class())),
        Source("popularity", top, PopularityRetriever.fit(data, PopularityRetriever.settings_class())),
    )
    return CandidateStage("variant", sources, available, exclude_seen, (1.0, -1.0))


def candidates(table: object) -> list[list[int]]:
    return table["candidate"].to_pylist()  # type: ignore[index]


def test_candidates_are_the_union_of_each_sources_best_unseen_available_items() -> None:
    available = np.arange(ITEMS) % 7 != 3
    work, table = stage(available=available), two_halves()
    out = work(denoised(table))
    from halves_shop import profiles_of

    scores = {source.name: all_item_scores(source.retriever, profiles_of(table)) for source in work.sources}
    for user, seen in enumerate(table["item"].to_pylist()):
        expected = set()
        for name, score in scores.items():
            row = score[user if len(score) > 1 else 0]
            order = np.lexsort((np.arange(ITEMS), -row))
            allowed = [i for i in order if available[i] and i not in seen and (name == "popularity" or row[i] > 0)]
            expected |= set(allowed[:5])
        assert candidates(out)[user] == sorted(expected)
        for name, score in scores.items():
            row = score[user if len(score) > 1 else 0]
            assert out[f"score.{name}"][user].as_py() == pytest.approx(row[sorted(expected)].tolist(), abs=1e-6)


def test_a_removed_event_does_not_affect_scores_but_counts_as_seen() -> None:
    table = history_table({"u": [(0, 3.0, 0), (1, 2.0, 0)], "v": [(0, 3.0, 0)]})
    out = stage(top=50)(denoised(table, keep=[1.0, 0.0, 1.0]))
    assert 1 not in candidates(out)[0]
    assert 1 in candidates(out)[1]
    assert out["item"].to_pylist() == [[0], [0]]
    shared = sorted(set(candidates(out)[0]) & set(candidates(out)[1]))
    ease = [dict(zip(candidates(out)[u], out["score.ease"][u].as_py(), strict=True)) for u in (0, 1)]
    assert [ease[0][item] for item in shared] == [ease[1][item] for item in shared]


def test_a_returned_item_counts_as_seen_and_does_not_affect_scores() -> None:
    out = stage(top=50)(denoised(history_table({"u": [(4, 3.0, 1)]})))
    assert 4 not in candidates(out)[0]
    assert out["item"].to_pylist() == [[]]
    assert not np.any(out["score.ease"][0].as_py())


def test_a_user_without_retained_events_gets_popular_items() -> None:
    out = stage()(denoised(history_table({"u": [(4, 3.0, 0)], "new": []}), keep=[0.0]))
    assert [len(row) for row in candidates(out)] == [5, 5]
    assert set(Ragged.from_arrow(out["source"]).values.tolist()) == {2}


def test_seen_items_are_candidates_if_not_excluded() -> None:
    table = denoised(history_table({"u": [(0, 3.0, 0), (2, 2.0, 0)]}))
    assert set(candidates(stage(top=50, exclude_seen=False)(table))[0]) >= {0, 2}
    assert not set(candidates(stage(top=50)(table))[0]) & {0, 2}


def test_no_item_of_the_window_is_proposed_however_long_the_history() -> None:
    table = denoised(two_halves())
    before = stage(top=50)(table)
    older = [row[:3] for row in candidates(before)]
    capped = table.set_column(6, table.schema.field("older_items"), pa.array(older, pa.list_(pa.int32())))
    for user, row in enumerate(candidates(stage(top=50)(capped))):
        assert not set(row) & set(older[user])
        assert set(row) | set(older[user]) == set(candidates(before)[user])
    assert candidates(stage(top=50, exclude_seen=False)(capped)) == candidates(stage(top=50, exclude_seen=False)(table))


def test_candidates_do_not_depend_on_other_users_in_the_table() -> None:
    work, table = stage(), denoised(two_halves())
    together = work(table)
    apart = [work(table.slice(start, 7)) for start in range(0, 60, 7)]
    for name in together.schema.names:
        assert together[name].to_pylist() == [row for part in apart for row in part[name].to_pylist()]


def test_an_empty_shard_is_an_empty_table() -> None:
    out = stage()(denoised(two_halves()).slice(0, 0))
    assert len(out) == 0
    assert out.schema.names[-1] == "score.popularity"


def test_a_candidate_is_credited_to_the_source_that_ranks_it_highest() -> None:
    out = stage()(denoised(two_halves()))
    sources = ["score.ease", "score.user_knn", "score.popularity"]
    for user in range(60):
        scores = np.array([out[name][user].as_py() for name in sources])
        order = np.array([np.argsort(np.argsort(-row, kind="stable"), kind="stable") for row in scores])
        order[:2][scores[:2] <= 0] = 10**6
        assert out["source"][user].as_py() == order.argmin(0).tolist()
