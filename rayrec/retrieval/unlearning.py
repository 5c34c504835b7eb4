"""Unlearning: the item model without some users, computed from the model instead of a full refit.

EASE with a stored P = (X'X + lambda I)^-1: exact. Without the users' rows X_u, X'X loses X_u'X_u, and by Woodbury P
becomes P + P X_u' (I - X_u P X_u')^-1 X_u P; for one user the rank-one downdate P + P x x'P / (1 - x'P x). Items that
then have too few users leave the solve: P_kk - P_kd P_dd^-1 P_dk. The result differs from a new solve by rounding only;
`residual` and the difference to a solve are measured.

iALS: the remaining users are folded in with the given factors, and the factors of the erased users' items are
recomputed. Not exact: the factors of the other items still depend on sweeps that included the erased users.

Everything else is a count or a sparse product, cheaper to refit than to correct.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.linalg
import scipy.sparse as sp

from rayrec.retrieval import item_model
from rayrec.retrieval.ease import EaseRetriever, packed, regularised_inverse, residual, unpacked, weights_of
from rayrec.retrieval.fit_data import FitData, gram_matrix
from rayrec.retrieval.ials import IalsRetriever, IalsSettings
from rayrec.retrieval.item_model import DenoiserFit, FittedRetriever, ItemModel
from rayrec.retrieval.source_specs import SourceSpec

Floats = npt.NDArray[np.float64]

DOWNDATED, RECOMPUTED, REFITTED = "downdated", "item factors recomputed", "refitted"
_EXACT = 1e-8  # of the residual
_BLOCK = 64  # users removed from P per step
_SOLVE_ITEMS = 4096  # largest solve that a downdate is compared with (seconds)
_REFIT_EVENTS = 2_000_000  # largest number of events for which iALS is compared with refits (a minute)
_COMPARED_USERS, _TOP = 500, 20


@dataclass(frozen=True)
class UnlearningResult:
    model: ItemModel
    how: tuple[Mapping[str, Any], ...]  # one row per fit: source, kind, how, and measurements


def unlearn_users(
    model: ItemModel,
    erased: sp.csr_matrix,
    remaining: FitData,
    item_ids: pa.Array,
    specs: Sequence[SourceSpec],
    denoiser_fits: Sequence[DenoiserFit] = (),
    *,
    sampled: bool = False,
) -> UnlearningResult:
    """Remove users from the model: their rows are `erased` (float32 [users, items], in the model's own codes).

    `remaining`: the events of all other users, in the codes of `item_ids`; `specs` and `denoiser_fits`: those of the
    model's fit. `sampled`: the fit is a sample of users, so others replace the erased ones and EASE is refitted.
    """
    codes = pc.index_in(model.item_ids, value_set=item_ids).fill_null(-1).to_numpy().astype(np.int64)
    prefitted: dict[str, FittedRetriever] = {}
    how: list[Mapping[str, Any]] = []
    for spec in specs:
        old = model.fitted.get(spec.key)
        if old is None:
            continue
        row = {"source": spec.key, "kind": spec.fit_method}
        ease = None
        if spec.fit_method == EaseRetriever.name and "inverse" in old.arrays and not sampled:
            ease = _without_ease(EaseRetriever.load(old.arrays, old.settings), erased, remaining, codes)
        if ease is not None:
            prefitted[spec.key] = FittedRetriever(spec.fit_method, old.settings, ease[0].arrays())
            how.append({**row, "how": DOWNDATED, **ease[1]})
        elif spec.fit_method == IalsRetriever.name:
            moved = IalsRetriever.load(old.arrays, old.settings).remap(codes, len(item_ids))
            touched = codes[np.unique(erased.indices)]
            ials = recompute_item_factors(moved, remaining.matrix, touched[touched >= 0])
            prefitted[spec.key] = FittedRetriever(spec.fit_method, old.settings, ials.arrays())
            how.append({**row, "how": RECOMPUTED, **_ials_difference(moved, ials, remaining, old.settings)})
        else:
            how.append({**row, "how": REFITTED})
    how += [{"source": learner.key, "kind": "denoiser", "how": REFITTED} for learner in denoiser_fits]
    return UnlearningResult(item_model.from_fit_data(remaining, item_ids, specs, denoiser_fits, prefitted), tuple(how))


def downdate(inverse: Floats, rows: sp.csr_matrix) -> None:
    """Remove the rows [users, m] from P [m, m], in place. Raises LinAlgError if they were not in it."""
    for start in range(0, rows.shape[0], _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float64)
        moved: Floats = np.asarray(block @ inverse)  # X_u P
        left = np.eye(block.shape[0]) - np.asarray(block @ moved.T)
        half = scipy.linalg.solve_triangular(np.linalg.cholesky(left), moved, lower=True)
        for first in range(0, len(inverse), 1024):  # in blocks, to avoid a second matrix as large as P
            inverse[first : first + 1024] += half[:, first : first + 1024].T @ half


def drop_items(inverse: Floats, remains: npt.NDArray[np.bool_]) -> Floats:
    """P of the remaining items [m], as if the dropped ones had not been in the solve."""
    if remains.all():
        return inverse
    across = inverse[np.ix_(remains, ~remains)]
    corner = inverse[np.ix_(~remains, ~remains)]
    remaining: Floats = inverse[np.ix_(remains, remains)]
    remaining -= across @ np.linalg.solve(corner, across.T)
    return remaining


def recompute_item_factors(model: IalsRetriever, matrix: sp.csr_matrix, items: npt.NDArray[np.int64]) -> IalsRetriever:
    """Recompute the factors of `items` from the folded-in users of `matrix` [users, items]; zero without events.

    As in the fit: (lambda I + U'U + sum_u (c_u - 1) u u') v = sum_u c_u u, with c = 1 + alpha x.
    """
    users = model.user_factors(matrix)
    shared = users.T @ users + model.settings.regularization * np.eye(users.shape[1])
    by_item = matrix.tocsc()
    factors = model.factors.copy()
    for item in items:
        entries = slice(by_item.indptr[item], by_item.indptr[item + 1])
        of_item = users[by_item.indices[entries]]
        extra = model.settings.alpha * by_item.data[entries].astype(np.float64)
        block = shared + (of_item.T * extra) @ of_item
        factors[item] = scipy.linalg.solve(block, (1 + extra) @ of_item, assume_a="pos")
    return IalsRetriever(factors, model.settings)


def _without_ease(
    old: EaseRetriever, erased: sp.csr_matrix, remaining: FitData, codes: npt.NDArray[np.int64]
) -> tuple[EaseRetriever, dict[str, Any]] | None:
    """The model and its measurements; None if rounding errors in P are too large, as after many downdates."""
    triangle = np.empty(0) if old.inverse is None else old.inverse
    inverse = unpacked(triangle, len(old.active))
    try:
        downdate(inverse, erased[:, old.active])
    except np.linalg.LinAlgError:
        return None
    items = remaining.matrix.shape[1]
    users = np.bincount(remaining.matrix.indices, minlength=items)
    new = codes[old.active]
    remains = (new >= 0) & (np.append(users, 0)[new] >= old.settings.min_users)
    inverse = drop_items(inverse, remains)
    active = new[remains].astype(np.int32)  # ascending: both catalogues are sorted by item id
    gram = gram_matrix(remaining.matrix[:, active])
    measured: dict[str, Any] = {
        "users": erased.shape[0],
        "items_dropped": int(np.count_nonzero(~remains)),
        "residual": residual(gram, old.settings.regularization, inverse),
        "difference_to_refit": None,
    }
    if measured["residual"] > _EXACT:
        return None
    if len(active) <= _SOLVE_ITEMS:
        measured["difference_to_refit"] = _greatest_difference(
            inverse, regularised_inverse(gram, old.settings.regularization, old.settings.memory_gb)
        )
    return EaseRetriever(weights_of(inverse), active, items, old.settings, packed(inverse)), measured


def _greatest_difference(one: Floats, other: Floats) -> float:
    """max |B - B'| of the weights of two P, in float64."""
    difference = one / one.diagonal() - other / other.diagonal()
    return float(np.abs(difference).max(initial=0.0))


def _ials_difference(
    before: IalsRetriever, after: IalsRetriever, remaining: FitData, settings: IalsSettings
) -> dict[str, Any]:
    """Distances to a refit, and for comparison the distance of a refit with another seed.

    Over up to 500 users: mean |score - score of the refit| over all items, and mean overlap of the best 20 items.
    """
    if len(remaining.item) > _REFIT_EVENTS:
        return {"difference_to_refit": None}
    refit = IalsRetriever.fit(remaining, settings)
    other_seed = refit.settings.model_copy(update={"seed": (refit.settings.seed + 1) % 2**32})
    others = {
        "before": before,
        "after": after,
        "refit_of_another_seed": IalsRetriever.fit(remaining, other_seed),
    }
    chosen = np.unique(np.linspace(0, remaining.matrix.shape[0] - 1, _COMPARED_USERS).astype(np.int64))
    some = remaining.matrix[chosen]
    truth = refit.user_factors(some) @ refit.factors.T.astype(np.float64)
    return {
        "difference_to_refit": {
            name: _distance(other.user_factors(some) @ other.factors.T.astype(np.float64), truth)
            for name, other in others.items()
        }
    }


def _distance(scores: Floats, truth: Floats) -> dict[str, float]:
    top = min(_TOP, scores.shape[1])
    best, true_best = (np.argpartition(-each, top - 1, axis=1)[:, :top] for each in (scores, truth))
    shared = [len(np.intersect1d(one, other)) for one, other in zip(best, true_best, strict=True)]
    return {
        "mean_abs_score": float(np.abs(scores - truth).mean()),
        f"overlap_at_{top}": float(np.mean(shared) / top),
    }
