"""Unlearning: a model with users removed equals a model fitted without them. EASE to 1e-8, counts bitwise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rayrec.config import Retrieval
from rayrec.data.schemas import HISTORY, MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval import item_model, unlearning
from rayrec.retrieval.ease import packed, unpacked
from rayrec.retrieval.fit_data import FitData, FitDataCollector
from rayrec.retrieval.ials import IalsRetriever
from rayrec.retrieval.item_model import FittedRetriever, ItemModel
from rayrec.retrieval.source_specs import SourceSpec, source_specs

ITEMS, USERS, CUT = 30, 120, 100 * MICROSECONDS_PER_DAY
IDS = pa.array([f"item {code:02d}" for code in range(ITEMS)])
GONE = {"user 3", "user 77", "user 119"}
SPECS = source_specs(
    Retrieval(
        sources={
            "ease": {"regularization": 5.0, "min_users": 3, "store_inverse": True},
            "ease_alone": {"method": "ease", "regularization": 5.0},
            "ials": {"factors": 6, "iterations": 15},
            "item_knn": {},
            "user_knn": {},
            "popularity": {},
            "recent_popularity": {},
        }
    )
)
KEPT, SINGLE_WORKER, IALS = (
    next(spec for spec in SPECS if spec.name == name).key for name in ("ease", "ease_alone", "ials")
)


def histories(seed: int = 0) -> pa.Table:
    """120 users with two tastes; item 29 has three users: two to be erased, and one other."""
    draw = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        taste = np.arange(user % 2, ITEMS - 1, 2)
        items = draw.choice(taste, draw.integers(3, 9), replace=False).tolist()
        items += [ITEMS - 1] if f"user {user}" in GONE - {"user 3"} or user == 8 else []
        rows.append(
            (f"user {user}", items, np.sort(draw.uniform(0, 90, len(items)) * MICROSECONDS_PER_DAY).astype(np.int64))
        )
    lengths = [len(items) for _, items, _ in rows]
    item = Ragged.from_lengths(np.concatenate([items for _, items, _ in rows]).astype(np.int32), lengths)
    ts = item.like(np.concatenate([moments for _, _, moments in rows]))
    events = len(item.values)
    columns = [
        item.to_arrow(pa.int32()),
        ts.to_arrow(pa.int64()),
        item.like(np.zeros(events, np.int8)).to_arrow(pa.int8()),
        item.like(np.full(events, np.nan, np.float32)).to_arrow(pa.float32()),
        item.like(np.full(events, -1, np.int32)).to_arrow(pa.int32()),
        pa.array([[]] * len(rows), pa.list_(pa.int32())),
    ]
    return pa.table([pa.array([name for name, _, _ in rows]), *columns], schema=HISTORY)


def split(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The users to erase, and the others."""
    gone = np.isin(table["user_id"].to_pylist(), list(GONE))
    return table.filter(pa.array(gone)), table.filter(pa.array(~gone))


def collected(table: pa.Table, items: int = ITEMS) -> FitData:
    data = FitDataCollector(items, np.ones(1, np.float32), CUT, 10**6)
    data.add(table)
    return data.finish()


def fitted(table: pa.Table) -> ItemModel:
    return item_model.fit([table], IDS, SPECS, (1.0,), CUT, 10**6)


def erasure_list(sampled: bool = False) -> tuple[unlearning.UnlearningResult, ItemModel]:
    """The model after erasure, and a fit on the other users."""
    theirs, others = split(histories())
    whole = fitted(histories())
    return (
        unlearning.unlearn_users(whole, collected(theirs).matrix, collected(others), IDS, SPECS, sampled=sampled),
        fitted(others),
    )


def inverse_of(gram: npt.NDArray[np.float64], regularization: float) -> npt.NDArray[np.float64]:
    inverse: npt.NDArray[np.float64] = np.linalg.inv(gram + regularization * np.eye(len(gram)))
    return inverse


def weights_of(inverse: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """B in float64; the model's B is float32."""
    return np.eye(len(inverse)) - inverse / inverse.diagonal()


@given(
    users=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=8), min_size=3, max_size=20),
    gone=st.integers(1, 2),
    regularization=st.sampled_from([0.5, 10.0, 200.0]),
    values=st.sampled_from([(1.0,), (1.0, 0.3, 0.05)]),
)
@hypothesis_settings(max_examples=100, deadline=None)
def test_a_downdate_is_the_inverse_without_the_users_to_1e_8(
    users: list[list[int]], gone: int, regularization: float, values: tuple[float, ...]
) -> None:
    x = np.zeros((len(users), 8))
    for row, items in enumerate(users):
        x[row, items] = [values[k % len(values)] for k in range(len(items))]
    inverse = inverse_of(x.T @ x, regularization)
    unlearning.downdate(inverse, sp.csr_matrix(x[:gone]))
    refit = inverse_of(x[gone:].T @ x[gone:], regularization)
    assert np.abs(inverse - refit).max() < 1e-8
    assert np.abs(weights_of(inverse) - weights_of(refit)).max() < 1e-8


def test_removing_many_users_at_once_equals_removing_them_one_by_one() -> None:
    x = sp.csr_matrix(collected(histories()).matrix, dtype=np.float64)
    at_once, singly = (inverse_of((x.T @ x).toarray(), 5.0) for _ in range(2))
    unlearning.downdate(at_once, x[:100])
    for row in range(100):
        p = singly @ x[row].toarray().ravel()
        singly += np.outer(p, p) / (1 - x[row].toarray().ravel() @ p)
    assert np.abs(at_once - singly).max() < 1e-10


def test_an_item_removed_from_the_solve_has_no_influence() -> None:
    x = collected(histories()).matrix.toarray().astype(np.float64)
    stays = np.arange(ITEMS) % 5 != 0
    left = unlearning.drop_items(inverse_of(x.T @ x, 5.0), stays)
    assert np.abs(left - inverse_of(x[:, stays].T @ x[:, stays], 5.0)).max() < 1e-10


def test_a_symmetric_matrix_is_stored_as_a_triangle() -> None:
    square = np.random.default_rng(0).normal(size=(1030, 1030))
    square += square.T
    assert len(packed(square)) == 1030 * 1031 // 2
    assert np.array_equal(unpacked(packed(square), 1030), square)


def test_ease_with_a_stored_inverse_is_downdated_and_equals_the_refit() -> None:
    found, refit = erasure_list()
    ours, theirs = found.model.fitted[KEPT].arrays, refit.fitted[KEPT].arrays
    assert ITEMS - 1 not in ours["active"]  # one of three users is left: too few for the solve
    assert np.array_equal(ours["active"], theirs["active"])
    size = len(ours["active"])
    one, other = (weights_of(unpacked(arrays["inverse"], size)) for arrays in (ours, theirs))
    assert np.abs(one - other).max() < 1e-8
    assert np.abs(ours["weights"] - theirs["weights"]).max() < 1e-7  # float32
    row = next(row for row in found.how if row["source"] == KEPT)
    assert row["how"] == unlearning.DOWNDATED
    assert row["items_dropped"] == 1
    assert row["residual"] < 1e-8
    assert row["difference_to_refit"] < 1e-8


def test_users_are_erased_one_request_after_another() -> None:
    table = histories()
    model = fitted(table)
    for user in sorted(GONE):
        is_user = np.array(table["user_id"].to_pylist()) == user
        theirs, table = table.filter(pa.array(is_user)), table.filter(pa.array(~is_user))
        model = unlearning.unlearn_users(model, collected(theirs).matrix, collected(table), IDS, SPECS).model
    ours, theirs_at_once = model.fitted[KEPT].arrays["inverse"], fitted(table).fitted[KEPT].arrays["inverse"]
    assert np.abs(ours - theirs_at_once).max() < 1e-8


@pytest.mark.parametrize("sampled", [False, True])
def test_all_arrays_but_inverse_and_factors_equal_the_refit_bitwise(sampled: bool) -> None:
    found, refit = erasure_list(sampled)
    assert np.array_equal(found.model.count, refit.count)
    assert np.array_equal(found.model.features, refit.features)
    approximate = {IALS} if sampled else {IALS, KEPT}
    for key in set(refit.fitted) - approximate:
        for name, array in refit.fitted[key].arrays.items():
            assert np.array_equal(found.model.fitted[key].arrays[name], array), (key, name)
    assert {row["source"]: row["how"] for row in found.how}[SINGLE_WORKER] == unlearning.REFITTED


def test_an_inverse_with_large_rounding_errors_is_solved_again() -> None:
    theirs, others = split(histories())
    whole = fitted(histories())
    old = whole.fitted[KEPT]
    spoiled = {**old.arrays, "inverse": old.arrays["inverse"] * (1 + 1e-6)}
    whole = ItemModel(
        IDS, CUT, whole.count, whole.features, {**whole.fitted, KEPT: FittedRetriever("ease", old.settings, spoiled)}
    )
    found = unlearning.unlearn_users(whole, collected(theirs).matrix, collected(others), IDS, SPECS)
    assert {row["source"]: row["how"] for row in found.how}[KEPT] == unlearning.REFITTED
    assert np.array_equal(found.model.fitted[KEPT].arrays["inverse"], fitted(others).fitted[KEPT].arrays["inverse"])


def test_items_of_erased_users_are_solved_from_the_other_users() -> None:
    """Each re-solved item is the exact minimum of the other users' loss, given the user vectors."""
    theirs, others = split(histories())
    old = IalsRetriever.fit(collected(histories()), IalsRetriever.settings_class(factors=6))
    touched = np.unique(collected(theirs).matrix.indices).astype(np.int64)
    remaining = collected(others).matrix
    new = unlearning.recompute_item_factors(old, remaining, touched)
    users, x = old.user_factors(remaining), remaining.toarray().astype(np.float64)
    confidence = 1 + old.settings.alpha * x
    gradient = (confidence * (users @ new.factors.T - (x > 0))).T @ users + old.settings.regularization * new.factors
    scale = np.abs((confidence * (x > 0)).T @ users).max()
    assert np.abs(gradient[touched]).max() < 1e-5 * scale
    untouched = np.setdiff1d(np.arange(ITEMS), touched)
    assert np.array_equal(new.factors[untouched], old.factors[untouched])


def test_the_reported_ials_deviation_is_measured_against_two_refits() -> None:
    found, _ = erasure_list()
    measured = next(row for row in found.how if row["source"] == IALS)["difference_to_refit"]
    assert set(measured) == {"before", "after", "refit_of_another_seed"}
    assert all(0 < distance["mean_abs_score"] < 0.5 for distance in measured.values())


def test_an_item_without_other_users_loses_its_factors() -> None:
    theirs, others = split(histories())
    alone = np.array(others["user_id"].to_pylist()) != "user 8"
    remaining = collected(others.filter(pa.array(alone)))
    old = IalsRetriever.fit(collected(histories()), IalsRetriever.settings_class(factors=6))
    new = unlearning.recompute_item_factors(
        old, remaining.matrix, np.unique(collected(theirs).matrix.indices).astype(np.int64)
    )
    assert np.abs(old.factors[ITEMS - 1]).max() > 0
    assert np.abs(new.factors[ITEMS - 1]).max() == 0


def test_items_that_leave_the_catalogue_do_not_change_others() -> None:
    theirs, others = split(histories())
    whole, shorter = fitted(histories()), IDS.slice(1)  # item 00 is gone: all codes shift by one
    moved = Ragged.from_arrow(others["item"])
    kept = others.set_column(
        1,
        HISTORY.field("item"),
        moved.filter(moved.values > 0).like(moved.values[moved.values > 0] - 1).to_arrow(pa.int32()),
    )
    times = Ragged.from_arrow(others["ts"])
    kept = kept.set_column(2, HISTORY.field("ts"), times.filter(moved.values > 0).to_arrow(pa.int64()))
    event = Ragged.from_arrow(others["event"])
    kept = kept.set_column(3, HISTORY.field("event"), event.filter(moved.values > 0).to_arrow(pa.int8()))
    remaining = collected(kept, ITEMS - 1)
    found = unlearning.unlearn_users(whole, collected(theirs).matrix, remaining, shorter, SPECS)
    refit = item_model.from_fit_data(remaining, shorter, SPECS)
    ours, exact = found.model.fitted[KEPT].arrays, refit.fitted[KEPT].arrays
    assert np.array_equal(ours["active"], exact["active"])
    assert np.abs(ours["inverse"] - exact["inverse"]).max() < 1e-8


def test_a_source_missing_in_the_model_is_fitted() -> None:
    theirs, others = split(histories())
    specs = (*SPECS, SourceSpec.of("more", "recent_popularity", 0, half_life_days=2.0))
    found = unlearning.unlearn_users(fitted(histories()), collected(theirs).matrix, collected(others), IDS, specs)
    assert {spec.key for spec in specs} == set(found.model.fitted)
