"""The pairwise reranker with scripted answers, and its sorting network."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest
from oracle import Oracle, load

from rayrec.reranking.engines.engine import Failure
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.pairwise import sorting_network
from rayrec.reranking.text.text_scorer import RankingQuery, TextScorer


def compare(bias: float = 0.0) -> Callable[[str, int], list[float]]:
    """The item with the larger number wins; `bias`: added for the first place."""

    def answer(text: str, count: int) -> list[float]:
        first, second = (int(number) for number in re.findall(r"\n[AB]: item (\d+)", text))
        return [first + bias, second]

    return answer


def ask(numbers: list[int]) -> RankingQuery:
    return RankingQuery("anything", (), tuple(f"item {number}" for number in numbers))


def pairwise(checkpoint: InstructCheckpoint, answer: Callable[[str, int], list[float] | None], top: int) -> TextScorer:
    return load("pairwise", Oracle(checkpoint, answer), checkpoint, top=top)


@pytest.mark.parametrize("size", range(13))
def test_network_sorts_every_input(size: int) -> None:
    """The zero-one principle: a network that sorts all sequences of zeros and ones sorts everything (Knuth 5.3.4)."""
    for bits in itertools.product((0, 1), repeat=size):
        row = list(bits)
        for compared in sorting_network(size):
            for high, low in compared:
                if row[high] > row[low]:
                    row[high], row[low] = row[low], row[high]
        assert row == sorted(bits)


def test_network_has_batchers_size_and_depth_and_each_place_once_a_round() -> None:
    found = {size: (sum(map(len, sorting_network(size))), len(sorting_network(size))) for size in (2, 4, 8, 16, 32)}
    assert found == {2: (1, 1), 4: (5, 3), 8: (19, 6), 16: (63, 10), 32: (191, 15)}
    for compared in sorting_network(27):
        places = [place for pair in compared for place in pair]
        assert len(set(places)) == len(places)
        assert max(places) < 27


def test_top_is_sorted_and_the_rest_retains_its_order(qwen3: InstructCheckpoint) -> None:
    numbers = [4, 7, 1, 9, 3, 8, 2, 99, 50]
    (scores,) = pairwise(qwen3, compare(), top=7).score([ask(numbers)])
    ranked = [numbers[k] for k in np.argsort(-np.asarray(scores))]
    assert ranked == [9, 8, 7, 4, 3, 2, 1, 99, 50]
    np.testing.assert_allclose(sorted(np.asarray(scores), reverse=True), -np.log(np.arange(1, 10)), atol=1e-6)


@pytest.mark.parametrize("bias", [-50.0, 0.4, 50.0])
def test_position_bias_cancels(qwen3: InstructCheckpoint, bias: float) -> None:
    numbers = np.random.default_rng(2).permutation(16).tolist()
    (scores,) = pairwise(qwen3, compare(bias), top=16).score([ask(numbers)])
    assert [numbers[k] for k in np.argsort(-np.asarray(scores))] == sorted(numbers, reverse=True)


def test_rounds_of_all_users_are_batched(qwen3: InstructCheckpoint) -> None:
    scorer = pairwise(qwen3, compare(), top=8)
    asks = [ask(np.random.default_rng(k).permutation(8 + k).tolist()) for k in range(5)]
    scorer.score(asks)
    assert isinstance(scorer.engine, Oracle)
    assert scorer.engine.calls == 6  # depth of the network
    assert len(scorer.engine.prompts) == 5 * 2 * 19


def test_failing_comparison_fails_its_user_alone(qwen3: InstructCheckpoint) -> None:
    answer = compare()
    scorer = pairwise(qwen3, lambda text, count: None if "item 77" in text else answer(text, count), top=4)
    good, bad, empty = scorer.score([ask([1, 2, 3]), ask([1, 77, 3]), ask([])])
    assert np.argsort(-np.asarray(good)).tolist() == [2, 1, 0]
    assert isinstance(bad, Failure)
    assert np.asarray(empty).shape == (0,)
