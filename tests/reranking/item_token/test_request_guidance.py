"""Guidance: a weighted product of several prompts for a request beside a history, one prompt for all other users."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax
from small_model import INSTRUCTION

from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import Engine, Failure
from rayrec.reranking.item_token.item_head import ItemHead
from rayrec.reranking.item_token.prompt_layout import MICROSECONDS_PER_DAY, PromptLayout
from rayrec.reranking.item_token.request_guidance import WeightedPrompts, guided_states, weighted_prompts
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

NOW = 100 * MICROSECONDS_PER_DAY
HISTORY = [3, 5, 8]  # of the model's items
WISH = "a lamp"


@pytest.fixture
def layout(small_model: LocalCheckpoint) -> PromptLayout:
    return small_model.layout(INSTRUCTION, 128)


def read(
    model: LocalCheckpoint, layout: PromptLayout, rows: list[tuple[list[int], str, bool]], tokens: int | None = None
) -> list[WeightedPrompts]:
    """The weighted prompts of users, given items, words, and whether the words are a request.

    `tokens`: longest prompt of the engine; None: the layout's limit.
    """
    item = Ragged.from_lengths(
        np.array([code for items, *_ in rows for code in items], np.int64), [len(items) for items, *_ in rows]
    )
    ts = item.like(np.full(len(item.values), NOW - MICROSECONDS_PER_DAY))
    words = model.word_tokenizer(tokens or layout.tokens)([text for _, text, _ in rows])
    return weighted_prompts(layout, item, ts, NOW, words, np.array([request for *_, request in rows]))


def everything(head: ItemHead, model: LocalCheckpoint, state: Any) -> Any:
    vocabulary = model.card.vocabulary
    (scores,) = head.score([state], [range(vocabulary.first_item, vocabulary.size)])
    return scores


def test_item_probability_is_the_weighted_product_over_prompts(
    reference_engine: Engine, item_head: ItemHead, small_model: LocalCheckpoint, layout: PromptLayout
) -> None:
    (weighted,) = read(small_model, layout, [(HISTORY, WISH, True)])
    both, history, request, neither = (
        everything(item_head, small_model, reference_engine.last_hidden_states([list(prompt)])[0])
        for _, prompt in weighted
    )
    (state,) = guided_states(reference_engine, [weighted])
    expected = log_softmax(0.8 * both + 0.2 * history + 0.4 * request - 0.4 * neither)
    np.testing.assert_allclose(everything(item_head, small_model, state), expected, atol=1e-4)
    assert np.abs(expected - both).max() > 1  # otherwise the test could not distinguish them


def test_each_prompt_contains_its_parts(small_model: LocalCheckpoint, layout: PromptLayout) -> None:
    (weighted,) = read(small_model, layout, [(HISTORY, WISH, True)])
    assert [weight for weight, _ in weighted] == [0.8, 0.2, 0.4, -0.4]
    assert sum(weight for weight, _ in weighted) == pytest.approx(1)
    first, lamp = layout.vocabulary.first_item, set(small_model.word_tokenizer(layout.tokens)([WISH]).values.tolist())
    items = {first + code for code in HISTORY}
    holds = [(items <= set(prompt), lamp <= set(prompt)) for _, prompt in weighted]
    assert holds == [(True, True), (True, False), (False, True), (False, False)]


@pytest.mark.parametrize(
    "alone",
    [
        pytest.param((HISTORY, WISH, False), id="what is said is no request"),
        pytest.param((HISTORY, "", True), id="nothing is said"),
        pytest.param(([], WISH, True), id="no history"),
    ],
)
def test_other_users_have_one_prompt(
    small_model: LocalCheckpoint, layout: PromptLayout, alone: tuple[list[int], str, bool]
) -> None:
    found, _ = read(small_model, layout, [alone, (HISTORY, WISH, True)])
    assert [weight for weight, _ in found] == [1.0]


def test_request_that_leaves_no_room_is_not_guided(small_model: LocalCheckpoint, layout: PromptLayout) -> None:
    tight = replace(layout, tokens=len(layout.words) + 4)
    wish = " ".join(["lamp"] * (len(layout.words) + 2))
    found = read(small_model, tight, [(HISTORY, wish, True), (HISTORY, "", True)], layout.tokens)
    assert found[0] == ()
    assert [weight for weight, _ in found[1]] == [1.0]


def test_long_request_is_truncated(small_model: LocalCheckpoint, layout: PromptLayout) -> None:
    tight = replace(layout, tokens=len(layout.words) + 4)
    (weighted,) = read(small_model, tight, [(HISTORY, "lamp " * 100, True)])
    assert [weight for weight, _ in weighted] == [0.8, 0.2, 0.4, -0.4]
    assert max(len(prompt) for _, prompt in weighted) == tight.tokens


def test_row_fails_if_one_prompt_fails(
    small_model: LocalCheckpoint, layout: PromptLayout, reference_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    guided, other = read(small_model, layout, [(HISTORY, WISH, True), (HISTORY, "", False)])
    (expected,) = guided_states(reference_engine, [other])
    honest, refused = reference_engine.last_hidden_states, list(guided[2][1])

    def failing(prompts: Any) -> Any:
        found = zip(prompts, honest(prompts), strict=True)
        return [Failure("it would not be read") if prompt == refused else state for prompt, state in found]

    monkeypatch.setattr(reference_engine, "last_hidden_states", failing)
    failed, fine = guided_states(reference_engine, [guided, other])
    assert failed == Failure("it would not be read")
    np.testing.assert_array_equal(fine, expected)
