"""The listwise reranker with scripted answers: item effects, position bias, windows, early stopping."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Oracle, load

from rayrec.reranking.engines.engine import Failure
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.listwise import item_effects
from rayrec.reranking.text.text_scorer import RankingQuery, TextScorer

SETTINGS = {"item_tokens": 16, "instruction_tokens": 16}


def listed(text: str) -> list[int]:
    """The item numbers of a prompt, by letter."""
    return [int(number) for number in re.findall(r"\n[A-Za-z]\. item (\d+)", text)]


def worth(bias: Callable[[int], float] = lambda place: 0.0) -> Callable[[str, int], list[float]]:
    """Item k has the value k / 4 in any place, plus the place's bias."""
    return lambda text, count: [number / 4 + bias(place) for place, number in enumerate(listed(text))]


def ask(numbers: list[int], instruction: str = "anything") -> RankingQuery:
    return RankingQuery(instruction, ("item 900",), tuple(f"item {number}" for number in numbers))


def listwise(
    checkpoint: InstructCheckpoint, answer: Callable[[str, int], list[float] | None], **more: int
) -> TextScorer:
    return load("listwise", Oracle(checkpoint, answer), checkpoint, **SETTINGS | more)


def prompts_of(scorer: TextScorer) -> list[str]:
    assert isinstance(scorer.engine, Oracle)
    return scorer.engine.prompts


def test_without_bias_scores_are_the_log_softmax_of_item_values(qwen3: InstructCheckpoint) -> None:
    numbers = [3, 0, 9, 5]
    (scores,) = listwise(qwen3, worth()).score([ask(numbers)])
    logits = np.array(numbers) / 4
    np.testing.assert_allclose(scores, logits - np.logaddexp.reduce(logits), atol=1e-5)


def test_linear_position_bias_cancels_within_one_pair(qwen3: InstructCheckpoint) -> None:
    numbers = np.random.default_rng(0).permutation(12).tolist()
    logits = np.array(numbers) / 4
    expected = logits - np.logaddexp.reduce(logits)
    (once,) = listwise(qwen3, worth(lambda place: -0.5 * place), permutations=1).score([ask(numbers)])
    (pair,) = listwise(qwen3, worth(lambda place: -0.5 * place), permutations=2).score([ask(numbers)])
    assert np.abs(once - expected).max() > 0.5
    np.testing.assert_allclose(pair, expected, atol=1e-5)


def test_windows_have_a_common_scale(qwen3: InstructCheckpoint) -> None:
    """A letter's probability depends on the other items of its window; the fitted score does not."""
    numbers = np.random.default_rng(1).permutation(45).tolist()
    logits = np.array(numbers) / 4
    (scores,) = listwise(qwen3, worth(), window=10, stable_top=45).score([ask(numbers)])
    np.testing.assert_allclose(scores, logits - np.logaddexp.reduce(logits), atol=1e-4)


def test_windows_have_about_equal_length_and_each_item_once(qwen3: InstructCheckpoint) -> None:
    scorer = listwise(qwen3, worth(), window=10, permutations=2)
    scorer.score([ask(list(range(23)))])
    lists = [listed(text) for text in prompts_of(scorer)]
    assert [len(numbers) for numbers in lists] == [8, 8, 7, 8, 8, 7]
    assert sorted(number for numbers in lists[:3] for number in numbers) == list(range(23))
    assert [numbers[::-1] for numbers in lists[:3]] == lists[3:]


def test_query_ends_once_its_top_is_stable(qwen3: InstructCheckpoint) -> None:
    clear = listwise(qwen3, worth())
    clear.score([ask(list(range(8)))])
    assert len(prompts_of(clear)) == 4  # the second pair confirms the first
    rng = np.random.default_rng(0)
    noisy = listwise(qwen3, lambda text, count: rng.normal(size=len(listed(text))).tolist())
    noisy.score([ask(list(range(8)))])
    assert len(prompts_of(noisy)) == 8


def test_scores_depend_neither_on_the_batch_nor_on_candidate_order(qwen3: InstructCheckpoint) -> None:
    jagged = worth(lambda place: float(np.sin(7 * place)))
    asks = [ask(list(range(start, start + 9)), f"request {start}") for start in range(6)]
    together = listwise(qwen3, jagged).score(asks)
    for k in (0, 3, 5):
        np.testing.assert_array_equal(listwise(qwen3, jagged).score([asks[k]])[0], together[k])
    backwards = listwise(qwen3, jagged).score(
        [RankingQuery(asks[2].request, asks[2].history, asks[2].candidates[::-1])]
    )[0]
    np.testing.assert_array_equal(np.asarray(backwards)[::-1], together[2])


def test_equal_texts_score_alike_and_are_listed_once(qwen3: InstructCheckpoint) -> None:
    scorer = listwise(qwen3, worth(lambda place: float(place % 3)))
    (scores,) = scorer.score([ask([1, 5, 1, 2])])
    assert not isinstance(scores, Failure)
    assert scores[0] == scores[2]
    assert {tuple(sorted(listed(text))) for text in prompts_of(scorer)} == {(1, 2, 5)}


def test_failing_list_fails_its_user_alone(qwen3: InstructCheckpoint) -> None:
    answer = worth()
    scorer = listwise(qwen3, lambda text, count: None if "request 1" in text else answer(text, count))
    one, two, three = scorer.score([ask([1, 2, 3], f"request {k}") for k in range(3)])
    assert isinstance(two, Failure)
    np.testing.assert_array_equal(one, three)


def test_empty_and_single_candidate_lists(qwen3: InstructCheckpoint) -> None:
    none, one = listwise(qwen3, worth()).score([ask([]), ask([4])])
    assert not isinstance(none, Failure)
    assert none.shape == (0,)
    assert np.asarray(one).tolist() == [0.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(2, 7), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_item_effects_match_the_least_squares_fit(items: int, size: int, rounds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lists = [part for _ in range(rounds) for part in np.array_split(rng.permutation(items), -(-items // size))]
    log_probs = [rng.normal(size=len(part)) for part in lists]
    design = np.zeros((items * rounds, items + len(lists)))
    place = np.repeat(np.arange(len(lists)), [len(part) for part in lists])
    design[np.arange(len(place)), np.concatenate(lists)] = 1
    design[np.arange(len(place)), items + place] = 1
    fitted = design @ np.linalg.lstsq(design, np.concatenate(log_probs), rcond=None)[0]
    scores = item_effects(lists, log_probs, items)
    means = np.bincount(place, np.concatenate(log_probs) - scores[np.concatenate(lists)]) / np.bincount(place)
    ours = scores[np.concatenate(lists)] + means[place]
    assert np.square(ours - np.concatenate(log_probs)).sum() == pytest.approx(
        np.square(fitted - np.concatenate(log_probs)).sum(), rel=1e-6, abs=1e-9
    )
