"""Contract of all retrievers."""

from __future__ import annotations

import numpy as np
import pytest
from halves_shop import ITEMS, fit_data, history_table, profiles_of, two_halves

from rayrec.errors import ConfigError
from rayrec.numerics.user_scores import AllowedItems
from rayrec.retrieval import RETRIEVERS, Retriever
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.retriever import all_item_scores

SETTINGS = {
    "ials": {"factors": 4, "regularization": 1.0},
    "ease": {"regularization": 5.0},
    "item_text": {"max_events": 1000},  # all items are new: the data have no others
}
PERSONAL = sorted(name for name, kind in RETRIEVERS.items() if kind.personalized)


@pytest.fixture(scope="module")
def data() -> FitData:
    return fit_data(two_halves())


@pytest.fixture(params=sorted(RETRIEVERS))
def fitted(request: pytest.FixtureRequest, data: FitData) -> Retriever:
    return RETRIEVERS[request.param].fit(
        data, RETRIEVERS[request.param].settings_class(**(SETTINGS.get(request.param, {})))
    )


def test_scores_are_finite_float32_for_every_item(fitted: Retriever) -> None:
    scores = all_item_scores(fitted, profiles_of(two_halves()))
    assert scores.dtype == np.float32
    assert scores.shape == (60, ITEMS)
    assert fitted.personalized or (scores == scores[0]).all()
    assert np.isfinite(scores).all()
    assert scores.any()


@pytest.mark.parametrize("name", PERSONAL)
def test_users_get_items_of_their_own_half(name: str, data: FitData) -> None:
    scores = all_item_scores(
        RETRIEVERS[name].fit(data, RETRIEVERS[name].settings_class(**(SETTINGS.get(name, {})))),
        profiles_of(two_halves()),
    )
    for user in range(60):
        own, other = scores[user, user % 2 :: 2], scores[user, 1 - user % 2 :: 2]
        assert own.mean() > other.mean() + 1e-4


@pytest.mark.parametrize("name", PERSONAL)
def test_scores_do_not_depend_on_other_users_in_the_batch(name: str, data: FitData) -> None:
    retriever = RETRIEVERS[name].fit(data, RETRIEVERS[name].settings_class(**(SETTINGS.get(name, {}))))
    user_histories = profiles_of(two_halves())
    together = all_item_scores(retriever, user_histories)
    for start, stop in ((0, 1), (7, 8), (10, 23), (30, 60)):
        assert np.array_equal(all_item_scores(retriever, user_histories[start:stop]), together[start:stop])


@pytest.mark.parametrize("name", PERSONAL)
def test_top_items_are_the_best_by_the_scores_of_pairs(name: str, data: FitData) -> None:
    retriever = RETRIEVERS[name].fit(data, RETRIEVERS[name].settings_class(**(SETTINGS.get(name, {}))))
    user_histories = profiles_of(two_halves())
    scores = all_item_scores(retriever, user_histories)
    available = np.arange(ITEMS) % 7 != 3
    top = retriever.user_scores(user_histories).top(AllowedItems(available, user_histories.item), 5)
    for user in range(60):
        own = np.where(available, scores[user], 0)
        own[user_histories.item[user]] = 0
        least = np.sort(own)[-5]
        assert len(top[user]) == min(5, np.count_nonzero(own > 0))
        assert len(set(top[user])) == len(top[user])
        assert (own[top[user]] >= max(least, 1e-30) - 1e-6).all()


@pytest.mark.parametrize("name", PERSONAL)
def test_an_empty_history_scores_zero(name: str, data: FitData) -> None:
    retriever = RETRIEVERS[name].fit(data, RETRIEVERS[name].settings_class(**(SETTINGS.get(name, {}))))
    user_histories = profiles_of(history_table({"nobody": [], "somebody": [(2, 1.0, 0)], "nobody else": []}))
    scores = all_item_scores(retriever, user_histories)
    assert not scores[[0, 2]].any()
    assert scores[1].any()
    assert all_item_scores(retriever, user_histories[0:0]).shape == (0, ITEMS)


def test_a_retriever_loads_from_its_arrays(fitted: Retriever) -> None:
    frozen = {name: np.array(array) for name, array in fitted.arrays().items()}
    for array in frozen.values():
        array.flags.writeable = False  # as in Ray's shared memory
    loaded = type(fitted).load(frozen, type(fitted).settings_class(**(SETTINGS.get(fitted.name, {}))))
    user_histories = profiles_of(two_halves())
    assert np.array_equal(all_item_scores(loaded, user_histories), all_item_scores(fitted, user_histories))


def test_remap_converts_codes_and_new_items_score_zero(fitted: Retriever) -> None:
    table = two_halves()
    codes = np.random.default_rng(1).permutation(ITEMS + 3)[:ITEMS]
    moved_table = table.set_column(1, "item", _recoded(table, codes))
    before = all_item_scores(fitted, profiles_of(table))
    after = all_item_scores(fitted.remap(codes, ITEMS + 3), profiles_of(moved_table, ITEMS + 3))
    assert np.allclose(after[:, codes], before, atol=1e-5)
    assert not np.delete(after, codes, axis=1).any()


def test_items_outside_the_new_catalogue_are_dropped(fitted: Retriever) -> None:
    codes = np.where(np.arange(ITEMS) < 30, np.arange(ITEMS), -1)
    table = history_table({"somebody": [(2, 1.0, 0), (4, 0.5, 0)]})
    assert all_item_scores(fitted.remap(codes, 30), profiles_of(table, 30)).shape == (1, 30)


@pytest.mark.parametrize("name", sorted(RETRIEVERS))
def test_the_error_for_an_unknown_setting_names_the_nearest_one(name: str) -> None:
    with pytest.raises(ConfigError, match="half_life_dayz: unknown key"):
        RETRIEVERS.settings(name, {"half_life_dayz": 2})


def _recoded(table: object, codes: np.ndarray) -> object:
    import pyarrow as pa

    from rayrec.numerics.ragged import Ragged

    item = Ragged.from_arrow(table["item"])  # type: ignore[index]
    return item.like(codes[item.values]).to_arrow(pa.int32())
