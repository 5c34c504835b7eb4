"""Every engine gives the same numbers, whoever shares the batch, and one bad prompt costs nobody else anything."""

from __future__ import annotations

import numpy as np
import pytest

from rayrec.errors import ConfigError
from rayrec.reranking.engines import engine_selection
from rayrec.reranking.engines.engine import Engine, EngineSettings, Failure
from rayrec.reranking.engines.transformers_engine import TransformersEngine
from rayrec.reranking.engines.vllm_engine import VllmEngine
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

Asked = tuple[list[list[int]], list[list[int]]]


@pytest.fixture(params=["vllm_engine", "reference_engine"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def asked(small_model: LocalCheckpoint) -> Asked:
    """40 prompts that share a beginning, of many lengths, with 5 to 140 candidates each."""
    vocabulary = small_model.card.vocabulary
    rng = np.random.default_rng(0)
    prefix = [vocabulary.user, 40, 41, 42, vocabulary.history]
    prompts = [
        prefix + rng.integers(vocabulary.first_gap, vocabulary.size, n).tolist() for n in rng.integers(1, 120, 40)
    ]
    items = np.arange(vocabulary.first_item, vocabulary.size)
    candidates = [rng.choice(items, n, replace=False).tolist() for n in rng.integers(5, 141, 40)]
    return prompts, candidates


def test_vllm_and_transformers_give_the_same_log_probabilities(
    vllm_engine: Engine, reference_engine: Engine, asked: Asked
) -> None:
    for fast, reference in zip(vllm_engine.score(*asked), reference_engine.score(*asked), strict=True):
        np.testing.assert_allclose(fast, reference, atol=1e-4)


def test_bfloat16_is_close_to_float32(small_model: LocalCheckpoint, reference_engine: Engine, asked: Asked) -> None:
    half = TransformersEngine(small_model, EngineSettings(dtype="bfloat16"))
    for low, full in zip(half.score(*asked), reference_engine.score(*asked), strict=True):
        np.testing.assert_allclose(low, full, atol=0.2)


def test_a_prompt_scores_the_same_bits_alone_and_among_others(engine: Engine, asked: Asked) -> None:
    prompts, candidates = asked
    together = engine.score(prompts, candidates)
    order = np.random.default_rng(1).permutation(len(prompts))
    shuffled = engine.score([prompts[k] for k in order], [candidates[k] for k in order])
    for place, k in enumerate(order):
        np.testing.assert_array_equal(shuffled[place], together[k])
    for k in (0, 13, 39):
        np.testing.assert_array_equal(engine.score([prompts[k]], [candidates[k]])[0], together[k])


def test_scores_are_log_probabilities_over_all_items(
    engine: Engine, small_model: LocalCheckpoint, asked: Asked
) -> None:
    vocabulary = small_model.card.vocabulary
    every = list(range(vocabulary.first_item, vocabulary.size))
    scores = engine.score(asked[0][:3], [every] * 3)
    for row in scores:
        assert not isinstance(row, Failure)
        assert np.exp(row.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)


def test_differences_between_candidates_are_those_of_the_models_own_logits(
    engine: Engine, small_model: LocalCheckpoint, asked: Asked
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    causal = AutoModelForCausalLM.from_pretrained(small_model.folder, dtype=torch.float32)
    prompts, candidates = asked
    scores = engine.score(prompts[:5], candidates[:5])
    for prompt, tokens, row in zip(prompts, candidates, scores, strict=False):
        assert not isinstance(row, Failure)
        logits = causal(torch.tensor([prompt])).logits[0, -1, tokens].detach().numpy()
        np.testing.assert_allclose(row - row[0], logits - logits[0], atol=1e-4)


def test_a_bad_prompt_is_a_failure_of_its_own(engine: Engine, small_model: LocalCheckpoint, asked: Asked) -> None:
    vocabulary = small_model.card.vocabulary
    good, items = asked[0][0], asked[1][0]
    prompts = [good, [], [vocabulary.size + 7], [-1], good * 60, good]
    expected = engine.score([good], [items])[0]
    answers = engine.score(prompts, [items] * 5 + [[3]])
    np.testing.assert_array_equal(answers[0], expected)
    reasons = [answer.reason if isinstance(answer, Failure) else "" for answer in answers[1:]]
    for reason, says in zip(
        reasons, ("empty", "does not know", "does not know", "more than", "candidate"), strict=True
    ):
        assert says in reason


def test_a_prompt_that_vllm_refuses_fails_alone(
    vllm_engine: Engine, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM validates all prompts of a call together; the one it refuses must not take the others along."""
    prompts, candidates = asked[0][:9], asked[1][:9]
    expected = vllm_engine.score(prompts, candidates)
    llm = vllm_engine._llm  # type: ignore[attr-defined]
    honest = llm.encode

    def picky(asked_for: list[dict[str, list[int]]], *rest: object, **more: object) -> object:
        if any(one["prompt_token_ids"] == prompts[4] for one in asked_for):
            raise ValueError("I do not like it")
        return honest(asked_for, *rest, **more)

    monkeypatch.setattr(llm, "encode", picky)
    answers = vllm_engine.score(prompts, candidates)
    assert answers[4] == Failure("vLLM refused the prompt: I do not like it")
    for k in (0, 1, 2, 3, 5, 6, 7, 8):
        np.testing.assert_array_equal(answers[k], expected[k])


def test_an_engine_that_breaks_is_not_swallowed(
    vllm_engine: Engine, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*rest: object, **more: object) -> object:
        raise RuntimeError("the engine is dead")

    monkeypatch.setattr(vllm_engine._llm, "encode", dead)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="the engine is dead"):
        vllm_engine.score(*asked)


def test_an_answer_that_is_not_finite_is_a_failure(
    reference_engine: Engine, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = reference_engine.last_hidden_states

    def sick(prompts: list[list[int]]) -> list[object]:
        states = list(honest(prompts))
        states[1] = np.full_like(states[1], np.nan)
        return states

    monkeypatch.setattr(reference_engine, "last_hidden_states", sick)
    answers = reference_engine.score(asked[0][:3], asked[1][:3])
    assert [isinstance(answer, Failure) for answer in answers] == [False, True, False]


def test_auto_takes_vllm_where_it_is_installed_and_says_so_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert engine_selection.engine_named("auto") is VllmEngine
    assert engine_selection.engine_named("transformers") is TransformersEngine
    monkeypatch.setattr(engine_selection.importlib.util, "find_spec", lambda name: None)
    assert engine_selection.engine_named("auto") is TransformersEngine
    assert "not installed" in caplog.text
    with pytest.raises(ConfigError, match="not installed"):
        engine_selection.engine_named("vllm")
