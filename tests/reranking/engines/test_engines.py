"""Both engines give the same numbers for any batch, and an invalid prompt affects no other prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rayrec.errors import ConfigError
from rayrec.reranking.engines import engine_registry
from rayrec.reranking.engines.engine import Engine, EngineSettings, Failure, Float32
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.engines.vllm_runner import VllmRunner
from rayrec.reranking.item_token.item_head import ItemHead
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

Prompts = list[list[int]]
Scores = list[Float32 | Failure]


@pytest.fixture(params=["vllm_engine", "reference_engine"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def prompts(small_model: LocalCheckpoint) -> Prompts:
    """40 prompts of many lengths with a common prefix."""
    vocabulary, rng = small_model.card.vocabulary, np.random.default_rng(0)
    prefix = [vocabulary.user, 40, 41, 42, vocabulary.history]
    return [prefix + rng.integers(vocabulary.first_gap, vocabulary.size, n).tolist() for n in rng.integers(1, 120, 40)]


@pytest.fixture(scope="module")
def candidates(small_model: LocalCheckpoint) -> Prompts:
    """5 to 140 items for each prompt."""
    vocabulary, rng = small_model.card.vocabulary, np.random.default_rng(1)
    items = np.arange(vocabulary.first_item, vocabulary.size)
    return [rng.choice(items, n, replace=False).tolist() for n in rng.integers(5, 141, 40)]


def test_vllm_and_transformers_give_the_same_hidden_states(
    vllm_engine: Engine, reference_engine: Engine, item_head: ItemHead, prompts: Prompts, candidates: Prompts
) -> None:
    one, other = (item_head.score(e.last_hidden_states(prompts), candidates) for e in (vllm_engine, reference_engine))
    for fast, reference in zip(one, other, strict=True):
        np.testing.assert_allclose(fast, reference, atol=1e-4)


def test_bfloat16_is_close_to_float32(
    small_model: LocalCheckpoint, reference_engine: Engine, item_head: ItemHead, prompts: Prompts, candidates: Prompts
) -> None:
    half = TransformersRunner(small_model.model_files, "hidden_state", EngineSettings(dtype="bfloat16"))
    low, full = (item_head.score(e.last_hidden_states(prompts), candidates) for e in (half, reference_engine))
    for one, other in zip(low, full, strict=True):
        np.testing.assert_allclose(one, other, atol=0.2)


def test_prompt_scores_are_bit_identical_alone_and_in_a_batch(
    engine: Engine, item_head: ItemHead, prompts: Prompts, candidates: Prompts
) -> None:
    def score(rows: list[int]) -> Scores:
        states = engine.last_hidden_states([prompts[row] for row in rows])
        return item_head.score(states, [candidates[row] for row in rows])

    together = score(list(range(len(prompts))))
    order = np.random.default_rng(1).permutation(len(prompts)).tolist()
    for row, shuffled in zip(order, score(order), strict=True):
        np.testing.assert_array_equal(shuffled, together[row])
    for row in (0, 13, 39):
        np.testing.assert_array_equal(score([row])[0], together[row])


def test_scores_are_the_model_logits_normalised_over_all_items(
    engine: Engine, item_head: ItemHead, small_model: LocalCheckpoint, prompts: Prompts
) -> None:
    vocabulary = small_model.card.vocabulary
    items = list(range(vocabulary.first_item, vocabulary.size))
    causal = AutoModelForCausalLM.from_pretrained(small_model.folder, dtype=torch.float32)
    scores = item_head.score(engine.last_hidden_states(prompts[:5]), [items] * 5)
    for prompt, row in zip(prompts, scores, strict=False):
        logits = causal(torch.tensor([prompt])).logits[0, -1, items].detach()
        np.testing.assert_allclose(np.asarray(row), torch.log_softmax(logits, 0).numpy(), atol=1e-4)


def test_invalid_prompt_is_a_failure_of_its_own(
    engine: Engine, item_head: ItemHead, small_model: LocalCheckpoint, prompts: Prompts, candidates: Prompts
) -> None:
    size, good, items = small_model.card.vocabulary.size, prompts[0], candidates[0]
    expected = item_head.score(engine.last_hidden_states([good]), [items])[0]
    states = engine.last_hidden_states([good, [], [size + 7], [-1], good * 60, good])
    answers = item_head.score(states, [items] * 5 + [[3]])
    np.testing.assert_array_equal(answers[0], expected)
    says = ("empty", "does not know", "does not know", "more than", "candidate")
    for answer, part in zip(answers[1:], says, strict=True):
        assert isinstance(answer, Failure)
        assert part in answer.reason


def test_prompt_that_vllm_refuses_fails_alone(
    vllm_engine: VllmRunner, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM validates all prompts of a call together and refuses all for one."""
    expected = vllm_engine.last_hidden_states(prompts[:9])
    honest = vllm_engine._llm.encode

    def picky(inputs: list[dict[str, list[int]]], *rest: object, **more: object) -> object:
        if any(one["prompt_token_ids"] == prompts[4] for one in inputs):
            raise ValueError("I do not like it")
        return honest(inputs, *rest, **more)

    monkeypatch.setattr(vllm_engine._llm, "encode", picky)
    answers = vllm_engine.last_hidden_states(prompts[:9])
    assert answers[4] == Failure("vLLM refused the prompt: I do not like it")
    for row in (0, 1, 2, 3, 5, 6, 7, 8):
        np.testing.assert_array_equal(answers[row], expected[row])


def test_broken_engine_raises(vllm_engine: VllmRunner, prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*rest: object, **more: object) -> object:
        raise RuntimeError("the engine is dead")

    monkeypatch.setattr(vllm_engine._llm, "encode", dead)
    with pytest.raises(RuntimeError, match="the engine is dead"):
        vllm_engine.last_hidden_states(prompts)


def test_non_finite_answer_is_a_failure(
    reference_engine: Engine, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = reference_engine._last_hidden_states

    def sick(valid: Any) -> Any:
        states = list(honest(valid))
        states[1] = np.full(64, np.nan, np.float32)
        return states

    monkeypatch.setattr(reference_engine, "_last_hidden_states", sick)
    answers = reference_engine.last_hidden_states(prompts[:3])
    assert [isinstance(answer, Failure) for answer in answers] == [False, True, False]


def test_auto_selects_vllm_if_installed_and_warns_otherwise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert engine_registry.engine_class("auto") is VllmRunner
    assert engine_registry.engine_class("transformers") is TransformersRunner
    monkeypatch.setattr(engine_registry.importlib.util, "find_spec", lambda name: None)
    assert engine_registry.engine_class("auto") is TransformersRunner
    assert "not installed" in caplog.text
    with pytest.raises(ConfigError, match="not installed"):
        engine_registry.engine_class("vllm")


@pytest.mark.parametrize(("build", "on_cpus", "on_gpus"), [("0.29.0", False, True), ("0.29.0+cpu", True, True)])
def test_a_build_of_vllm_for_gpus_is_no_engine_on_cpus(
    build: str, on_cpus: bool, on_gpus: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_registry.importlib.metadata, "version", lambda name: build)
    for device, runs in (("cpu", on_cpus), ("cuda", on_gpus)):
        assert engine_registry.engine_class("auto", device) is (VllmRunner if runs else TransformersRunner)
        if not runs:
            assert "is a build for GPUs" in caplog.text
            with pytest.raises(ConfigError, match="a build for GPUs, and these engines are on CPUs"):
                engine_registry.engine_class("vllm", device)
