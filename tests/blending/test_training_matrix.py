"""The matrix of training candidates gives the same bits as the features computed one window at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from test_blender import PERSONAL, window

from rayrec.blending.blend_features import USER_FEATURES, blend_features, scorer_features
from rayrec.blending.blend_fitting import TrainingWindow
from rayrec.blending.training_matrix import MatrixPart, TrainingMatrix
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float32s


def test_rows_are_the_features_of_both_windows() -> None:
    windows = [window(seed=1, llm=1.0), window(seed=2, llm=1.0)]
    rng = np.random.default_rng(0)
    users = [rng.normal(size=(len(each.table), len(USER_FEATURES))).astype(np.float32) for each in windows]

    def of_scorers(each: TrainingWindow, user: Float32s) -> Callable[[slice], dict[str, Float32s]]:
        return lambda rows: scorer_features(each.table[rows], PERSONAL, (), user[rows], llm=True)

    matrix = TrainingMatrix.of(
        [
            MatrixPart(Ragged.from_arrow(each.table["candidate"]), each.item_features, user, of_scorers(each, user))
            for each, user in zip(windows, users, strict=True)
        ]
    )
    named = [
        blend_features(each.table, each.item_features, PERSONAL, (), user, llm=True)
        for each, user in zip(windows, users, strict=True)
    ]
    whole = np.concatenate([np.stack(list(each.values()), axis=1) for each in named])
    assert matrix.names == tuple(named[0])
    assert matrix.shape == whole.shape
    assert np.array_equal(matrix[: len(whole)], whole)
    some = rng.permutation(len(whole))[:100]
    assert np.array_equal(matrix[some], whole[some])
    assert matrix[5:5].shape == (0, whole.shape[1])
