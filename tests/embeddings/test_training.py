"""Losses and answers computed by hand, the cutoff, and a model that learns."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_users import NOW, QUESTIONS, WEIGHTS, catalogue, events, histories, items, settings, trained

from rayrec.config.embeddings_section import Answer
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.embeddings import Embedder, Events, Items
from rayrec.embeddings.embedder_training import initial_word_vectors, train
from rayrec.embeddings.embedding_losses import answer_nll, info_nce
from rayrec.embeddings.instruction_answers import answer
from rayrec.embeddings.source_views import View
from rayrec.embeddings.training_windows import sample_training_users, training_windows, window_cutoffs
from rayrec.errors import DataError
from rayrec.numerics.hashing import shard_of
from rayrec.numerics.ragged import Ragged


def unit(rows: list[list[float]]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=1)


def test_info_nce_is_the_softmax_over_distinct_answers() -> None:
    user, answers = unit([[1, 0], [0, 1]]), unit([[1, 0], [1, 1], [0, 1]])
    own, none = torch.tensor([0, 1]), torch.zeros(2, 3, dtype=torch.bool)
    found = float(info_nce(user, answers, own, none, 0.5, 10.0))
    s = math.sqrt(0.5)
    first = math.log(sum(math.exp(v / 0.5) for v in (1, s, 0))) - 2
    second = math.log(sum(math.exp(v / 0.5) for v in (0, s, 1))) - 2 * s
    assert found == pytest.approx((first + second) / 2, rel=1e-5)


def test_likely_false_negatives_are_masked_unless_they_contradict() -> None:
    user, answers = unit([[1, 0.0]]), unit([[1, 1], [1, 0], [-1, 0]])  # similarities .71, 1, -1
    own, none = torch.tensor([0]), torch.zeros(1, 3, dtype=torch.bool)
    without = info_nce(user, answers[[0, 2]], own, none[:, :2], 0.07, 0.1)
    assert float(info_nce(user, answers, own, none, 0.07, 0.1)) == pytest.approx(float(without))
    contrary = torch.tensor([[False, True, False]])
    assert float(info_nce(user, answers, own, contrary, 0.07, 0.1)) > 4
    assert float(info_nce(user, answers, own, none, 0.07, 0.3)) > 4  # .29 above is within the margin


def test_a_closed_answer_counts_by_its_sum_and_an_open_one_by_its_mean() -> None:
    logits = torch.zeros(3, 4)  # each word costs log 4
    words, example = torch.tensor([1, 2, 3]), torch.tensor([0, 0, 1])
    log4 = math.log(4)
    assert float(answer_nll(logits, words, example, torch.tensor([True, True]))) == pytest.approx((2 * log4 + log4) / 2)
    assert float(answer_nll(logits, words, example, torch.tensor([False, True]))) == pytest.approx(log4)


def one_user(item: list[int], day: list[float], event: list[int], value: list[float], now: int) -> Events:
    of = np.array(event, np.int8)
    ts = (np.array(day) * MICROSECONDS_PER_DAY).astype(np.int64)
    weight = np.asarray(WEIGHTS, np.float32)[of]
    return Events(np.array([0, len(item)]), np.array(item, np.int32), ts, of, weight, np.array(value, np.float32), now)


@pytest.mark.parametrize(
    ("asked", "yes", "text"),
    [
        ({"kind": "again"}, 1, "yes again soon"),
        ({"kind": "takes", "words": ["chair"]}, 1, "yes takes chair"),
        ({"kind": "takes", "words": ["lamp", "vase"]}, 0, "no takes lamp vase"),
        ({"kind": "returns"}, 1, "yes returns"),
        ({"kind": "rates_high", "at_least": 5}, 0, "no rates high"),
        ({"kind": "price_up"}, 1, "yes price up"),
        ({"kind": "next"}, math.nan, "blue chair 1"),
    ],
)
def test_answers_follow_from_the_events(asked: dict[str, object], yes: float, text: str) -> None:
    before = one_user([0, 0], [1, 2], [0, 0], [3, 3], 10 * MICROSECONDS_PER_DAY)  # lamps at price 1
    after = one_user(
        [1, 2], [11, 12], [0, 2], [4, 9], 20 * MICROSECONDS_PER_DAY
    )  # a chair at price 2 bought, a vase returned
    found = answer(Answer.model_validate(asked), before, after, items())
    assert found.text == (text,)
    assert found.closed == (asked["kind"] != "next")
    np.testing.assert_equal(found.yes[0], float(yes))


def test_users_without_history_or_consumption_have_no_answer() -> None:
    nobody = one_user([], [], [], [], 10 * MICROSECONDS_PER_DAY)
    after = one_user([1], [11], [0], [4], 20 * MICROSECONDS_PER_DAY)
    assert answer(Answer(kind="again"), nobody, after, items()).text == ("",)
    before, nothing = (
        one_user([1], [1], [0], [4], 10 * MICROSECONDS_PER_DAY),
        one_user([], [], [], [], 20 * MICROSECONDS_PER_DAY),
    )
    assert answer(Answer(kind="again"), before, nothing, items()).text == ("no again",)
    assert answer(Answer(kind="takes", words=("chair",)), before, nothing, items()).text == ("",)
    assert answer(Answer(kind="next"), before, nothing, items()).text == ("",)


def test_events_at_or_after_the_date_are_not_used() -> None:
    given = settings()
    table = histories()
    past = Ragged.from_arrow(table["ts"]).values < NOW
    known = table
    for field in table.schema:
        if field.name not in ("user_id", "older_items"):
            column = Ragged.from_arrow(table[field.name]).filter(past).to_arrow(field.type.value_type)
            known = known.set_column(known.schema.get_field_index(field.name), field, column)
    with_future = training_windows(given, table, items(), WEIGHTS, NOW)
    without = training_windows(given, known, items(), WEIGHTS, NOW)
    for one, other, cutoff in zip(with_future, without, window_cutoffs(given, NOW), strict=True):
        assert cutoff + 10 * MICROSECONDS_PER_DAY <= NOW
        assert one.before.ts.max() < cutoff
        np.testing.assert_array_equal(one.before.item, other.before.item)
        assert [a.text for a in one.answers] == [a.text for a in other.answers]


def test_windows_do_not_depend_on_the_order_of_users() -> None:
    given, table = settings(), histories()
    backwards = table.take(np.arange(len(table))[::-1])
    for one, other in zip(
        training_windows(given, table, items(), WEIGHTS, NOW),
        training_windows(given, backwards, items(), WEIGHTS, NOW),
        strict=True,
    ):
        np.testing.assert_array_equal(one.before.ts, other.before.ts)
        np.testing.assert_array_equal(one.held_out, other.held_out)


def test_the_held_out_share_does_not_depend_on_the_number_of_users() -> None:
    """Users are selected by their smallest hashes; the held-out users are chosen by other bits."""
    training = {"cutoffs": 1, "cutoff_interval_days": 10.0, "max_users": 400, "validation_share": 0.1}
    (few,) = training_windows(settings(training=training), histories(users=400), items(), WEIGHTS, NOW)
    (some,) = training_windows(settings(training=training), histories(users=4000), items(), WEIGHTS, NOW)
    assert len(some.held_out) == 400
    for lesson in (few, some):
        assert abs(lesson.held_out.mean() - 0.1) < 0.05  # 3 standard deviations


def test_the_same_input_gives_the_same_weights(embedder: Embedder) -> None:
    again = trained()
    for name, tensor in embedder.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert again.card == embedder.card


def test_an_instruction_without_an_answer_changes_no_weight(embedder: Embedder) -> None:
    without = trained(settings(instructions={name: q for name, q in QUESTIONS.items() if name != "other"}))
    for name, tensor in embedder.model.state_dict().items():
        assert torch.equal(tensor, without.model.state_dict()[name]), name


def test_without_held_out_users_the_last_epoch_is_used() -> None:
    training = {
        "cutoffs": 1,
        "cutoff_interval_days": 10.0,
        "epochs": 3,
        "patience": 1,
        "batch_users": 16,
        "validation_share": 1e-9,
    }
    found = trained(settings(training=training))
    assert found.card["epochs"] == 3
    assert [sorted(row) for row in found.card["curve"]] == [["epoch", "loss"]] * 3


def test_cooccurring_words_start_with_similar_vectors() -> None:
    lines = np.array([[1, 2], [1, 2], [3, 4], [3, 4]] * 10, np.int32)
    view = View(lines, np.ones(lines.shape, np.float32), np.ones(40, np.int64))
    start = initial_word_vectors([{"events": view}], 6, 4)
    length = np.linalg.norm(start, axis=1)
    assert (length[[0, 5]] < 1e-6).all()
    cosine = start @ start.T / np.maximum(np.outer(length, length), 1e-9)
    assert cosine[1, 2] == pytest.approx(1, abs=1e-4)
    assert abs(cosine[1, 3]) < 1e-4


def test_no_training_data_is_an_error() -> None:
    given = settings()
    table = histories()
    windows = training_windows(given, table, items(), WEIGHTS, 5 * MICROSECONDS_PER_DAY)
    with pytest.raises(DataError, match="nothing to train"):
        train(given, windows, items())


@pytest.mark.slow  # a long training
def test_the_model_learns_what_users_like() -> None:
    """Each user likes one of three kinds; an instruction about lamps separates those who like lamps."""
    training = {
        "cutoffs": 3,
        "cutoff_interval_days": 10.0,
        "epochs": 12,
        "patience": 12,
        "batch_users": 16,
        "learning_rate": 5e-3,
    }
    table = histories(users=240, seed=3)
    found = trained(settings(training=training), table)
    whole = Events.of(table, WEIGHTS, NOW)
    whole = whole.take(np.flatnonzero(whole.lengths >= 8))
    lamps = np.add.reduceat((whole.item % 3 == 0).astype(float), whole.offsets[:-1]) / whole.lengths
    vectors = found.embed(found.view_builder(Items.of(catalogue(), "price"))(whole), [QUESTIONS["lamps"]["text"]])[0]
    likes = lamps > 0.6
    half = np.arange(len(likes)) % 2 == 0
    toward = vectors[half & likes].mean(0) - vectors[half & ~likes].mean(0)
    score = vectors[~half] @ toward
    above = score[likes[~half]][:, None] > score[~likes[~half]]
    assert above.mean() > 0.9
    assert found.card["curve"][-1]["loss"] < found.card["curve"][0]["loss"]


def test_events_are_counted_before_the_date_only() -> None:
    assert events().now == NOW
    assert events().age_days.min() > 0


def test_sampled_users_give_the_same_windows_as_all_users() -> None:
    few = settings(training={"cutoffs": 2, "cutoff_interval_days": 30.0, "max_users": 7})
    table = histories(users=200)
    shard = shard_of(table["user_id"], 4)
    shards = [table.filter(pa.array(shard == k)) for k in range(4)]
    kept = sample_training_users(few, shards, WEIGHTS, NOW)
    assert 7 <= kept.num_rows <= 14
    found, whole = (training_windows(few, rows, items(), WEIGHTS, NOW) for rows in (kept, table))
    for one, other in zip(found, whole, strict=True):
        assert len(one.before) == 7
        for name in ("offsets", "item", "ts", "event"):
            np.testing.assert_array_equal(getattr(one.before, name), getattr(other.before, name))
        np.testing.assert_array_equal(one.held_out, other.held_out)
