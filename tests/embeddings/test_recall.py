"""Recall of the candidate benchmark."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.embed_recall import EvaluationSet, ratio_interval
from rayrec.numerics.ragged import Ragged


def test_recall_is_the_share_of_relevant_items() -> None:
    wanted = Ragged.from_lengths(np.array([1, 2, 5], np.int32), [2, 1])
    evaluation = EvaluationSet(pa.array(["u", "v"]), wanted)
    assert evaluation.recall(Ragged.from_lengths(np.array([2, 9, 1, 2], np.int32), [2, 2])).tolist() == [0.5, 0.0]


def test_the_interval_contains_the_ratio_and_is_one_for_equal_systems() -> None:
    theirs = np.random.default_rng(0).random(500)
    assert ratio_interval(theirs, theirs) == (1.0, 1.0)
    low, high = ratio_interval(1.2 * theirs, theirs)
    assert (low, high) == pytest.approx((1.2, 1.2))
    low, high = ratio_interval(theirs[::-1], theirs)
    assert low < 1 < high
