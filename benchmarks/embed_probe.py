"""Linear probe: out-of-fold logistic regression on vectors, its AUC and KS, and an interval of AUC differences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.stats import rankdata

FOLDS = 5
L2 = (0.003, 0.03, 0.3)  # chosen in each fold on a third of its training users
RESAMPLES = 300

Floats = npt.NDArray[np.float64]


def auc(yes: Floats, score: Floats) -> float:
    """Area under the ROC curve; ties count half."""
    rank, positives = rankdata(score), yes.sum()
    negatives = len(yes) - positives
    return float((rank[yes > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def ks(yes: Floats, score: Floats) -> float:
    """Kolmogorov-Smirnov: the largest distance between the two distributions of scores."""
    order = np.argsort(score, kind="stable")
    sorted_yes, ends = yes[order], np.append(np.diff(score[order]) > 0, True)
    gap = np.cumsum(sorted_yes) / yes.sum() - np.cumsum(1 - sorted_yes) / (1 - yes).sum()
    return float(np.abs(gap[ends]).max())


def out_of_fold_scores(vectors: npt.NDArray[np.floating], yes: Floats, seed: int) -> Floats:
    """Out-of-fold log-odds [users] of a standardised logistic regression; NaN in `vectors` stands for the mean."""
    folds = np.random.default_rng(seed).permutation(len(yes)) % FOLDS
    score = np.empty(len(yes))
    for fold in range(FOLDS):
        train = np.flatnonzero(folds != fold)
        x = _standardised(vectors.astype(np.float64), train)
        inner, validation = train[len(train) // 3 :], train[: len(train) // 3]
        worth = [auc(yes[validation], _scores(x[validation], _fitted(x[inner], yes[inner], l2))) for l2 in L2]
        weights = _fitted(x[train], yes[train], L2[int(np.argmax(worth))])
        score[folds == fold] = _scores(x[folds == fold], weights)
        # Folds are put on one scale by their ranks: their intercepts differ.
        score[folds == fold] = rankdata(score[folds == fold]) / (folds == fold).sum()
    return score


def difference_interval(
    yes: Mapping[str, Floats], ours: Mapping[str, Floats], theirs: Mapping[str, Floats], seed: int
) -> tuple[float, float]:
    """95% bootstrap interval, over users within each task, of mean AUC of ours less that of theirs."""
    rng = np.random.default_rng(seed)
    found = np.empty(RESAMPLES)
    for k in range(RESAMPLES):
        gaps = []
        for task, labels in yes.items():
            rows = rng.integers(len(labels), size=len(labels))
            if 0 < labels[rows].sum() < len(rows):
                gaps.append(auc(labels[rows], ours[task][rows]) - auc(labels[rows], theirs[task][rows]))
        found[k] = np.mean(gaps)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _standardised(x: Floats, train: npt.NDArray[np.int64]) -> Floats:
    there = ~np.isnan(x[train])
    count = np.maximum(there.sum(0), 1)
    mean = np.nan_to_num(x[train]).sum(0) / count
    spread = np.sqrt((np.where(there, x[train] - mean, 0) ** 2).sum(0) / count)
    return np.asarray(np.nan_to_num((x - mean) / np.maximum(spread, 1e-9)))


def _fitted(x: Floats, yes: Floats, l2: float) -> Floats:
    def loss(weights: Floats) -> tuple[float, Floats]:
        logit = _scores(x, weights)
        error = (1 / (1 + np.exp(-np.clip(logit, -500, 500))) - yes) / len(yes)
        value = np.logaddexp(0, logit).mean() - (yes * logit).mean() + l2 / 2 * weights[:-1] @ weights[:-1]
        return float(value), np.append(x.T @ error + l2 * weights[:-1], error.sum())

    start = np.zeros(x.shape[1] + 1)
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x)


def _scores(x: Floats, weights: Floats) -> Floats:
    return np.asarray(x @ weights[:-1] + weights[-1])
