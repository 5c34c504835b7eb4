from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file
from tuning_cases import ITEMS, NOW, as_table, fetch, learned_pairs, pairs_shop, run, settings, spec, write_shard

from rayrec.errors import ConfigError, DataError
from rayrec.numerics.collectives import Worker
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.training.tuner import tune_on_worker
from rayrec.reranking.training.tuning_preparation import TuningSpec
from rayrec.storage import Storage


def weights(given: TuningSpec) -> dict[str, Any]:
    return load_file(Path(fetch(given).folder) / "model.safetensors")


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def assert_same_model(one: TuningSpec, two: TuningSpec) -> None:
    run(one), run(two)
    assert same(weights(one), weights(two))


class Killed(Exception):
    pass


def kill_after_two(row: Mapping[str, float]) -> None:
    if row["epoch"] == 2:
        raise Killed


def test_model_learns_the_planted_pairs(tmp_path: Path) -> None:
    given = spec(tmp_path, pairs_shop(), settings=settings(epochs=25, item_dropout=0.0))
    card = run(given)
    assert learned_pairs(given) >= 0.9
    losses = [row["loss"] for row in card.curve]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("validated", [False, True])
def test_killed_tuning_resumes_to_the_weights_of_an_uninterrupted_one(tmp_path: Path, validated: bool) -> None:
    changes = {"now": NOW // 2, "until": NOW} if validated else {}
    whole = spec(tmp_path / "whole", pairs_shop(), settings=settings(epochs=4, patience=3), **changes)
    stopped = spec(tmp_path / "stopped", pairs_shop(), settings=settings(epochs=4, patience=3), **changes)
    expected = run(whole)

    with pytest.raises(Killed):
        run(stopped, kill_after_two)
    seen: list[float] = []
    card = run(stopped, lambda row: seen.append(row["epoch"]))
    assert seen[0] == 3
    assert card.curve == expected.curve
    assert same(weights(whole), weights(stopped))


def test_finished_model_is_not_tuned_again_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    given = spec(tmp_path, pairs_shop())
    card = run(given)
    seen: list[float] = []
    assert run(given, lambda row: seen.append(row["epoch"])) == card
    assert not seen
    assert not Storage(given.root).exists(f"{given.path}/checkpoint.safetensors")


def test_validation_stops_the_loop_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    hasty = settings(epochs=30, learning_rate=5e-2, patience=2)  # overfits 150 users soon
    given = spec(tmp_path, pairs_shop(), settings=hasty, now=NOW // 2, until=NOW)
    card = run(given)
    validated = [row["validation"] for row in card.curve]
    assert card.epochs == int(np.argmin(validated)) + 1
    assert len(validated) == min(card.epochs + 2, 30)


@dataclass(frozen=True)
class Beside(Worker):
    """A worker that receives the first worker's results, `answers`, in the order of the broadcasts."""

    answers: list[Any] = field(default_factory=list)
    kind: type = object  # answers of this type are replaced; others are the worker's own

    def broadcast_first(self, value: Any) -> Any:
        return self.answers.pop(0) if isinstance(value, self.kind) else value


def test_all_workers_stop_where_the_first_one_does(tmp_path: Path) -> None:
    given = spec(tmp_path, pairs_shop(30), settings=settings(epochs=9, patience=2), now=NOW // 2, until=NOW)
    card = tune_on_worker(given, Beside(answers=[3.0, 2.0, 2.5, 2.25, 1.0], kind=float), lambda row: None)
    assert [row["validation"] for row in card.curve] == [3.0, 2.0, 2.5, 2.25]
    assert card.epochs == 2


def test_events_at_or_after_now_are_not_used(tmp_path: Path) -> None:
    table = pairs_shop()
    ts, item = Ragged.from_arrow(table["ts"]), Ragged.from_arrow(table["item"])
    cut = ts.values < NOW // 3
    past = as_table(item.filter(cut), ts.values[cut])
    one = spec(tmp_path / "a", table, now=NOW // 3)
    two = spec(tmp_path / "b", past, now=NOW // 3)
    assert_same_model(one, two)


def test_items_with_too_few_events_get_no_token(tmp_path: Path) -> None:
    table = pairs_shop(users=30)
    counts = np.bincount(Ragged.from_arrow(table["item"]).values, minlength=ITEMS)
    floor = int(np.median(counts)) + 1
    card = run(spec(tmp_path, table, settings=settings(min_item_events=floor, epochs=1)))
    assert card.item_ids == tuple(f"i{code:02}" for code in np.flatnonzero(counts >= floor))


def test_events_removed_by_denoising_do_not_reach_the_model(tmp_path: Path) -> None:
    table = pairs_shop()
    item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"])
    odd = np.random.default_rng(1).random(len(item.values)) < 0.2
    one = spec(tmp_path / "a", as_table(item, ts.values, np.where(odd, 0.0, 1.0)))
    two = spec(tmp_path / "b", as_table(item.filter(~odd), ts.values[~odd]))
    assert_same_model(one, two)


@pytest.mark.parametrize(
    ("table", "changes", "kind", "says"),
    [
        (as_table(Ragged.from_lengths(np.arange(0), [0, 0]), []), {}, DataError, "no items"),
        (as_table(Ragged.from_lengths(np.arange(4), [1, 1, 1, 1]), [0, 1, 2, 3]), {}, DataError, "nothing to tune"),
        (pairs_shop(5), {"settings": settings(width=48)}, ConfigError, "heads"),
        (pairs_shop(5), {"settings": settings(base="/no/such/model")}, ConfigError, "tokenizer"),
    ],
)
def test_invalid_input_is_a_readable_error(
    tmp_path: Path, table: Any, changes: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        run(spec(tmp_path, table, **changes))


def test_broken_checkpoint_is_a_readable_error(tmp_path: Path) -> None:
    given = spec(tmp_path, pairs_shop(20))
    Storage(given.root).write(f"{given.path}/checkpoint.safetensors", b"not one")
    with pytest.raises(DataError, match="checkpoint"):
        run(given)


def test_all_workers_resume_from_the_first_ones_checkpoint(tmp_path: Path) -> None:
    given = spec(tmp_path / "a", pairs_shop(60))
    with pytest.raises(Killed):
        run(given, kill_after_two)
    checkpoint = Storage(given.root).read(f"{given.path}/checkpoint.safetensors")
    other, seen = spec(tmp_path / "b", pairs_shop(60)), list[float]()  # without a checkpoint
    second = Beside(rank=1, answers=[False, checkpoint, "the first one's card"])
    assert tune_on_worker(other, second, lambda row: seen.append(row["epoch"])) == "the first one's card"
    assert seen == [3]
    assert not second.answers


def test_sample_of_users_does_not_depend_on_shards(tmp_path: Path) -> None:
    table, few = pairs_shop(60), settings(epochs=1, max_users=15)
    one = spec(tmp_path / "a", table, settings=few)
    many = spec(tmp_path / "b", table, settings=few, sequences=tuple(f"shard={k}.arrow" for k in range(4)))
    for k, name in enumerate(many.sequences):
        part = table.filter(pa.array(np.arange(60) % 4 == k))
        write_shard(Storage(many.root), name, part)
    card, everybody = run(one), run(spec(tmp_path / "c", table, settings=settings(epochs=1)))
    assert run(many) == card
    assert same(weights(one), weights(many))
    assert 3 * card.curve[0]["tokens"] < everybody.curve[0]["tokens"]
