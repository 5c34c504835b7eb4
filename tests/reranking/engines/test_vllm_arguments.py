"""`resources.vllm` may set the speed and memory of vLLM, never its results."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, field_validator
from small_checkpoints import build
from small_model import INSTRUCTION

from rayrec.config import load
from rayrec.config.vllm_arguments import ALLOWED
from rayrec.errors import ConfigError
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.vllm_runner import VllmRunner
from rayrec.reranking.item_token.prompt_layout import MICROSECONDS_PER_DAY
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint

pytestmark = pytest.mark.slow  # vLLM

CONFIG = Path(__file__).parents[3] / "jobs" / "demo.yaml"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every vLLM start; vLLM itself is not started."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("vllm.LLM", lambda **arguments: seen.append(arguments))
    return seen


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> InstructCheckpoint:
    return InstructCheckpoint.open(str(build(tmp_path_factory.mktemp("checkpoint"), "qwen3")))


def test_arguments_that_engines_fix_are_refused(
    given: list[dict[str, Any]], small_model: LocalCheckpoint, checkpoint: InstructCheckpoint
) -> None:
    """The engines' own arguments override the config's, except those about speed."""
    loud = EngineSettings(vllm={"disable_log_stats": False, "enforce_eager": False})
    VllmRunner(small_model.model_files, "hidden_state", loud)
    VllmRunner(checkpoint.model_files, "next_token", loud, 300)
    VllmRunner(checkpoint.model_files, "json", loud, 300, 100)
    for arguments in given:
        assert not arguments["disable_log_stats"]
        fixed = set(arguments) - ALLOWED
        assert {"model", "max_model_len", "dtype", "seed", "trust_remote_code", "enable_prefix_caching"} <= fixed
        for key in fixed:
            with pytest.raises(ConfigError, match=key):
                VllmRunner(checkpoint.model_files, "next_token", EngineSettings(vllm={key: 1}), 300)
    assert len(given) == 3


def test_errors_of_vllm_are_said_in_words(monkeypatch: pytest.MonkeyPatch, checkpoint: InstructCheckpoint) -> None:
    """vLLM checks a checkpoint with pydantic, whose errors carry types and links."""

    class Checked(BaseModel):
        dtype: str

        @field_validator("dtype")
        @classmethod
        def _supported(cls, dtype: str) -> str:
            raise ValueError(f"{dtype} is not\nsupported for quantization method awq")

    monkeypatch.setattr("vllm.LLM", lambda dtype, **_: Checked(dtype=dtype))
    with pytest.raises(ConfigError) as caught:
        VllmRunner(checkpoint.model_files, "next_token", EngineSettings(dtype="bfloat16"), 300)
    assert caught.value.what == (
        "vLLM cannot run this checkpoint: bfloat16 is not supported for quantization method awq"
    )
    assert "transformers" in str(caught.value)


def test_allowed_arguments_exist_in_the_installed_vllm() -> None:
    from vllm.engine.arg_utils import EngineArgs

    assert {field.name for field in fields(EngineArgs)} >= ALLOWED


def test_speed_arguments_reach_vllm(
    given: list[dict[str, Any]], small_model: LocalCheckpoint, checkpoint: InstructCheckpoint
) -> None:
    settings = EngineSettings(vllm={"block_size": 64, "gpu_memory_utilization": 0.5})
    VllmRunner(small_model.model_files, "hidden_state", settings)
    VllmRunner(checkpoint.model_files, "next_token", settings, 300)
    assert [(one["block_size"], one["gpu_memory_utilization"]) for one in given] == [(64, 0.5), (64, 0.5)]


@pytest.mark.parametrize(
    ("vllm", "what"),
    [
        ("{max_model_len: 64, dtype: bfloat16, gpu_memory_utilization: 0.5}", "score: dtype, max_model_len"),
        ("{gpu_memory_utilisation: 0.5}", "instead of gpu_memory_utilisation perhaps gpu_memory_utilization;"),
        ("{spec_model: /models/small}", "score: spec_model"),
        ("{mamba_ssm_cache_dtype: float16}", "score: mamba_ssm_cache_dtype"),
        ("{worker_cls: somebodys.Worker}", "score: worker_cls"),
        ("{hf_token: hf_sesame}", "score: hf_token"),
        ("{distributed_executor_backend: somebodys.Executor}", "there is no backend 'somebodys.Executor'"),
    ],
)
def test_config_with_other_arguments_is_refused(vllm: str, what: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(CONFIG, [f"resources.vllm={vllm}"])
    assert what in str(error.value)
    assert error.value.where.startswith("resources.vllm")
    assert "sesame" not in str(error.value)  # a value may be a secret


def test_config_may_set_memory_and_devices() -> None:
    given = ["resources.vllm={gpu_memory_utilization: 0.5, distributed_executor_backend: mp, tensor_parallel_size: 2}"]
    assert len(load(CONFIG, given).resources.vllm) == 3


def test_vllm_gets_the_length_of_the_longest_prompt(given: list[dict[str, Any]], small_model: LocalCheckpoint) -> None:
    card = replace(small_model.card, settings={"instruction_tokens": 20})
    model = LocalCheckpoint(small_model.folder, card)
    for instruction in ("Recommend.", INSTRUCTION * 4):
        layout = model.layout(instruction, 10_000)
        times = Ragged.from_lengths(np.arange(40) * MICROSECONDS_PER_DAY, [40])
        longest = model.longest_prompt(instruction)
        for words in ([], [40] * 20):
            asked = Ragged.from_lengths(np.array(words, np.int64), [len(words)])
            (prompt,) = layout.prompts(times.like(np.arange(40)), times, 50 * MICROSECONDS_PER_DAY, asked)
            assert len(prompt) <= longest
        plain = layout.prompts(times.like(np.arange(40)), times, 50 * MICROSECONDS_PER_DAY)
        assert longest == max(len(plain[0]), 20 + 2 + 2 * card.events)
    for asked_for, room in ((70, 70), (5_000, 128), (None, 128)):
        engine = VllmRunner(model.model_files, "hidden_state", EngineSettings(), asked_for)
        assert engine.max_prompt_tokens == room
        assert given[-1]["max_model_len"] == room
