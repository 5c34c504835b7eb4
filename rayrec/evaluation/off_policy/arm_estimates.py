"""Off-policy estimates of each arm's reward from the feedback on the slates of the other arms.

The weights are ratios of logged propensities and COUNTERFACTUAL_PROPENSITY rows, both P(item here | the ranks above);
those of IIPS are ratios of the marginal propensities in these rows.

Arms that differ in retrieval, denoising or rules have different candidates, and no weight can make up for an item that
the logging arm never shows: self-normalised estimates then read as "no difference". So an estimate is refused where the
target's first choice is on such items in more than MAX_UNSUPPORTED, or where the mean weight at rank 1 is not 1; except
by estimators whose interval allows for what is missing (`trimmed_rips`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.errors import DataError
from rayrec.evaluation.off_policy import item_cascade_dr, rank_cascade_dr, trimmed_rips, weighted_arms  # noqa: F401
from rayrec.evaluation.off_policy.action_estimators import on_policy
from rayrec.evaluation.off_policy.arm_estimator import ARM_ESTIMATORS, FOLDS, ItemHashes, TargetLog
from rayrec.evaluation.off_policy.estimates import (
    Estimate,
    confidence_interval,
    effective_sample_size,
    mean_weight,
    mean_weight_problem,
    support_problem,
)
from rayrec.numerics.hashing import hash_strings
from rayrec.numerics.types import Bools, Float64s, Int64s

DEPTH = 10
_SEPARATOR = "\x1f"  # between slate and impression; no id has control characters
MAX_UNSUPPORTED = 0.02  # share of the target's first choice

OFF_POLICY_ESTIMATES = pa.schema(
    [
        pa.field("logging_arm", pa.string(), nullable=False),  # its slates were shown
        pa.field("target_arm", pa.string(), nullable=False),  # its reward is estimated
        pa.field("estimator", pa.string(), nullable=False),
        pa.field("value", pa.float64()),  # expected sum of the rewards of a slate's first ranks
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("standard_error", pa.float64()),
        pa.field("difference", pa.float64()),  # from the logging arm's own value on the same slates
        pa.field("difference_low", pa.float64()),
        pa.field("difference_high", pa.float64()),
        pa.field("slates", pa.int64(), nullable=False),
        pa.field("effective_sample_size", pa.float64(), nullable=False),
        pa.field("mean_weight", pa.float64()),  # of rank 1: 1 where the logging arm can show all that the target shows
        pa.field("mean_weight_low", pa.float64()),
        pa.field("mean_weight_high", pa.float64()),
        pa.field("unsupported", pa.float64()),  # share of the target's first choice that the logging arm never shows
        pa.field("no_estimate_reason", pa.string()),  # null if there is an estimate
    ]
)


@dataclass(frozen=True)
class _Log:
    """Showings of slates of one logging arm, [n, K], in the order of first appearance."""

    slate_id: pa.Array  # [n]
    user: Int64s  # [n]: clusters of the intervals
    fold: Int64s  # [n]
    reward: Float64s
    propensity: Float64s
    mask: Bools
    item: ItemHashes

    def rows(self, keep: Bools) -> _Log:
        columns = (self.reward[keep], self.propensity[keep], self.mask[keep], self.item[keep])
        return _Log(self.slate_id.filter(pa.array(keep)), self.user[keep], self.fold[keep], *columns)


def estimate_arms(
    matched: pa.Table, targets: pa.Table, depth: int = DEPTH, estimators: Sequence[str] | None = None
) -> pa.Table:
    """Estimate every target arm from the slates of every logging arm, and each arm's own value (`on_policy`).

    Only the first `depth` ranks count, at most as many as COUNTERFACTUAL_PROPENSITY stores. An estimate uses the slates
    with a COUNTERFACTUAL_PROPENSITY at every rank. These exclude deterministic slates, so compare estimates with the
    same `slates`. Intervals are clustered by user. `estimators`: by name; None: all that are registered.
    """
    if depth < 1:
        raise DataError(f"a depth of {depth} ranks leaves no rank to evaluate", hint="give a depth of at least 1")
    shown = matched.filter(pc.less_equal(matched["rank"], depth))
    counterfactual = targets.filter(pc.less_equal(targets["rank"], depth))
    rows: list[dict[str, object]] = []
    arms = sorted(set(shown["arm"].to_pylist()))
    target_arms = sorted({*arms, *pc.unique(counterfactual["target_arm"].cast(pa.string())).to_pylist()})
    for arm in arms:
        log = _log(shown.filter(pc.equal(shown["arm"], arm)))
        rows.append(_own_row(arm, log))
        for target in target_arms:
            if target != arm:
                of_target = pc.equal(counterfactual["target_arm"].cast(pa.string()), target)
                names = list(ARM_ESTIMATORS) if estimators is None else estimators
                rows += _target_rows(arm, target, log, counterfactual.filter(of_target), names)
    return pa.Table.from_pylist(rows, OFF_POLICY_ESTIMATES)


def _log(feedback: pa.Table) -> _Log:
    parts = [feedback[name].combine_chunks() for name in ("slate_id", "impression_id")]
    slate = pc.binary_join_element_wise(*parts, _SEPARATOR).dictionary_encode()
    codes, column = slate.indices.to_numpy(), feedback["rank"].to_numpy().astype(np.int64) - 1
    shape = (len(slate.dictionary), int(column.max()) + 1)
    reward, propensity, mask = np.zeros(shape), np.ones(shape), np.zeros(shape, bool)
    item = np.zeros(shape, np.uint64)
    reward[codes, column] = feedback["reward"].to_numpy()
    encoded = feedback["item_id"].combine_chunks().dictionary_encode()
    item[codes, column] = hash_strings(encoded.dictionary)[encoded.indices.to_numpy()]
    propensity[codes, column] = feedback["propensity"].to_numpy()
    mask[codes, column] = True
    first = np.unique(codes, return_index=True)[1]
    user_id = feedback["user_id"].combine_chunks().take(pa.array(first))
    user = user_id.dictionary_encode().indices.to_numpy().astype(np.int64)
    # By user instead of slate: q must not have seen the user on other dates either.
    fold = (hash_strings(user_id) % np.uint64(FOLDS)).astype(np.int64)
    slate_id = parts[0].take(pa.array(first))
    return _Log(slate_id, user, fold, reward, propensity, mask, item)


def _own_row(arm: str, log: _Log) -> dict[str, object]:
    own = on_policy(log.reward.sum(axis=1))
    if len(np.unique(log.user)) < 2:
        return _no_estimate_row(arm, arm, own.name, len(log.user), float(len(log.user)), "fewer than two users")
    return _row(arm, arm, confidence_interval(own, log.user))


def _target_rows(
    arm: str, target: str, log: _Log, counterfactual: pa.Table, estimators: Sequence[str]
) -> Iterator[dict[str, object]]:
    found = _counterfactuals(log, counterfactual)
    whole = np.isfinite(found.propensity).min(axis=1)
    log, found = log.rows(whole), found.rows(whole)
    of = TargetLog(
        log.user,
        log.fold,
        log.reward,
        log.propensity,
        found.propensity,
        log.mask,
        log.item,
        found.drawn,
        found.has_drawn,
        found.own_marginal,
        found.marginal,
    )
    few = _too_few(log)
    support = _Support(None, None)
    if few is None:
        support = _Support(mean_weight(of.weight[:, 0], log.user), float(found.unsupported.mean()))
    for estimator in (ARM_ESTIMATORS[name]() for name in estimators):
        weights = estimator.weights(of)
        problem = few or estimator.problem(of)
        if problem is None and estimator.needs_support:
            problem = support.missing(arm, target) or support_problem(weights, log.propensity[log.mask])
            if problem is None and support.weight is not None:
                problem = mean_weight_problem(support.weight)
        if problem:
            size = effective_sample_size(weights)
            yield _no_estimate_row(arm, target, estimator.name, len(log.user), size, problem) | support.columns()
        else:
            yield _row(arm, target, estimator.estimate(of)) | _difference(estimator.difference(of)) | support.columns()


@dataclass(frozen=True)
class _Support:
    """What shows whether the logging arm can show the target's items."""

    weight: Estimate | None  # mean weight of rank 1
    unsupported: float | None  # mean share of the target's first choice that the logging arm never shows

    def missing(self, arm: str, target: str) -> str | None:
        """Why an estimate would miss a part of the target, as text; None if it would not."""
        if self.unsupported is None or self.unsupported <= MAX_UNSUPPORTED:
            return None
        what = f"{self.unsupported:.0%} of what {target} shows first are items that {arm} never shows"
        return f"{what}; arms with the same candidates, or a split, can be compared"

    def columns(self) -> dict[str, object]:
        if self.weight is None:
            return {}
        mean = {"mean_weight": self.weight.value, "mean_weight_low": self.weight.low}
        return {**mean, "mean_weight_high": self.weight.high, "unsupported": self.unsupported}


def _too_few(log: _Log) -> str | None:
    if not len(log.user):
        reason = "the slates are deterministic, or depth is too large"
        return f"no slate has counterfactual propensities at all ranks: {reason}"
    return "fewer than two users" if len(np.unique(log.user)) < 2 else None


@dataclass(frozen=True)
class _Counterfactuals:
    """What the target would have done with the slates of a log."""

    propensity: Float64s  # [n, K]: 1 past a slate's end; NaN without a COUNTERFACTUAL_PROPENSITY row
    unsupported: Float64s  # [n]
    drawn: ItemHashes  # [n, K, draws]
    has_drawn: Bools  # [n, K]
    marginal: Float64s  # [n, K]: 1 past a slate's end; NaN where it is not known
    own_marginal: Float64s  # of the logging arm

    def rows(self, keep: Bools) -> _Counterfactuals:
        return _Counterfactuals(*(getattr(self, field.name)[keep] for field in fields(self)))


def _counterfactuals(log: _Log, table: pa.Table) -> _Counterfactuals:
    slates = log.slate_id.dictionary_encode()
    many, ranks = len(slates.dictionary), log.mask.shape[1]
    lists = table["drawn"].combine_chunks()
    given = lists.is_valid().to_numpy(zero_copy_only=False)
    draws = int(pc.max(pc.list_value_length(lists)).as_py() or 0)
    unsupported = np.full(many, np.nan)
    drawn, has_drawn = np.zeros((many, ranks, draws), np.uint64), np.zeros((many, ranks), bool)
    flat = np.zeros((len(lists), draws), np.uint64)
    flat[given] = lists.flatten().to_numpy().reshape(-1, draws) if draws else flat[given]
    at = pc.index_in(table["slate_id"].combine_chunks(), value_set=slates.dictionary)
    row, rank = at.fill_null(-1).to_numpy(), table["rank"].to_numpy().astype(np.int64) - 1
    unsupported[row[row >= 0]] = table["unsupported"].to_numpy()[row >= 0]
    use = (row >= 0) & (rank < ranks)
    cell = row[use], rank[use]
    drawn[cell], has_drawn[cell] = flat[use], given[use]
    of = slates.indices.to_numpy()
    propensity, marginal, own_marginal = (np.full((many, ranks), np.nan) for _ in range(3))
    for name, column in (("propensity", propensity), ("marginal", marginal), ("own_marginal", own_marginal)):
        column[cell] = table[name].to_numpy()[use]
    columns = (np.where(log.mask, values[of], 1.0) for values in (propensity, marginal, own_marginal))
    propensity, marginal, own_marginal = columns
    return _Counterfactuals(propensity, unsupported[of], drawn[of], has_drawn[of], marginal, own_marginal)


def _row(logging: str, target: str, estimate: Estimate) -> dict[str, object]:
    measured = asdict(estimate)
    named = {"logging_arm": logging, "target_arm": target, "estimator": measured.pop("name")}
    return {**named, "slates": measured.pop("observations"), **measured}


def _difference(found: Estimate) -> dict[str, object]:
    return {"difference": found.value, "difference_low": found.low, "difference_high": found.high}


def _no_estimate_row(
    logging: str, target: str, estimator: str, slates: int, size: float, reason: str
) -> dict[str, object]:
    named = {"logging_arm": logging, "target_arm": target, "estimator": estimator}
    return {**named, "slates": slates, "effective_sample_size": size, "no_estimate_reason": reason}
