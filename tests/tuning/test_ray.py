"""Ray Train around the loop: real workers, real failures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tuning_cases import as_table, pairs_shop, settings, spec

from rayrec.contracts.ragged import Ragged
from rayrec.errors import DataError
from rayrec.reranking import artefact
from rayrec.reranking.tuning import tune_here
from rayrec.reranking.tuning_ray import tune
from rayrec.storage import Storage
from rayrec.workers import Worker, Workers

HALF = Workers(count=2, cpus=0.5)


@pytest.mark.usefixtures("local_ray")
def test_two_workers_end_with_the_weights_of_one_up_to_rounding(tmp_path: Path) -> None:
    one, two = (spec(tmp_path / name, pairs_shop(60), settings=settings(epochs=2)) for name in "ab")
    alone = tune_here(one, Worker(), lambda row: None)
    (card,) = tune([two], HALF)
    assert [round(row["loss"], 3) for row in card.curve] == [round(row["loss"], 3) for row in alone.curve]
    left, right = (
        load_file(Path(artefact.localise(Storage(s.root), s.path).folder) / "model.safetensors") for s in (one, two)
    )
    for name in left:
        np.testing.assert_allclose(left[name], right[name], atol=1e-3)


@pytest.mark.usefixtures("local_ray")
def test_what_the_user_can_put_right_comes_back_in_words_and_is_not_tried_again(tmp_path: Path) -> None:
    nothing = as_table(Ragged.from_lengths(np.arange(4), [1, 1, 1, 1]), [0, 1, 2, 3])
    with pytest.raises(DataError, match="nothing to tune"):
        tune([spec(tmp_path, nothing)], Workers())
