"""What resources.vllm may say: how fast vLLM computes and with how much memory, never what."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_checkpoints import build
from small_model import INSTRUCTION

from rayrec.config import load
from rayrec.contracts.ragged import Ragged
from rayrec.errors import ConfigError
from rayrec.pipeline.daily import check
from rayrec.pipeline.day import Day
from rayrec.reranking.artefact import LocalModel
from rayrec.reranking.base import EngineSettings
from rayrec.reranking.prompt import DAY_US
from rayrec.reranking.vllm_arguments import SCORING
from rayrec.reranking.vllm_engine import VllmEngine
from rayrec.reranking.ways.checkpoint import Checkpoint
from rayrec.reranking.ways.vllm_next_token import VllmNextToken

CONFIG = Path(__file__).parents[2] / "conf" / "demo.yaml"
SPEED = {"disable_log_stats", "enforce_eager", "block_size", "kv_cache_memory_bytes", "max_num_batched_tokens"}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What vLLM was started with, each time; it does not start."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("vllm.LLM", lambda **arguments: seen.append(arguments))
    return seen


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(str(build(tmp_path_factory.mktemp("checkpoint"), "qwen3")))


def test_whatever_an_engine_sets_beyond_speed_is_refused(
    given: list[dict[str, Any]], small_model: LocalModel, checkpoint: Checkpoint
) -> None:
    VllmEngine(small_model, EngineSettings())
    VllmNextToken(checkpoint, EngineSettings(), 300)
    for arguments in given:
        assert set(arguments) - SPEED <= SCORING
        assert "max_model_len" in arguments
    for key in SCORING:
        with pytest.raises(ConfigError, match=key):
            VllmEngine(small_model, EngineSettings(vllm={key: 1}))
        with pytest.raises(ConfigError, match=key):
            VllmNextToken(checkpoint, EngineSettings(vllm={key: 1}), 300)
    assert len(given) == 2


def test_what_is_about_speed_reaches_vllm(
    given: list[dict[str, Any]], small_model: LocalModel, checkpoint: Checkpoint
) -> None:
    settings = EngineSettings(vllm={"block_size": 64, "gpu_memory_utilization": 0.5})
    VllmEngine(small_model, settings)
    VllmNextToken(checkpoint, settings, 300)
    assert [(one["block_size"], one["gpu_memory_utilization"]) for one in given] == [(64, 0.5), (64, 0.5)]


def test_a_night_with_such_an_argument_is_refused_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()

    def night(vllm: str) -> Day:
        overrides = [f"data.root={tmp_path / 'data'}", f"output.root={tmp_path / 'out'}", f"resources.vllm={vllm}"]
        return Day(load(CONFIG, overrides), datetime.date(2011, 8, 31))

    check(night("{gpu_memory_utilization: 0.5}"))
    with pytest.raises(ConfigError, match="dtype, max_model_len: rayrec sets this itself") as error:
        check(night("{max_model_len: 64, dtype: bfloat16, gpu_memory_utilization: 0.5}"))
    assert error.value.where == "resources.vllm"


def test_vllm_makes_room_for_the_longest_prompt_and_no_more(
    given: list[dict[str, Any]], small_model: LocalModel
) -> None:
    card = replace(small_model.card, settings={"words": 20})
    model = LocalModel(small_model.folder, card)
    for instruction in ("Recommend.", INSTRUCTION * 4):
        layout = model.layout(instruction, 10_000)
        times = Ragged.from_lengths(np.arange(40) * DAY_US, [40])
        longest = model.longest_prompt(instruction)
        for words in ([], [40] * 20):
            asked = Ragged.from_lengths(np.array(words, np.int64), [len(words)])
            (prompt,) = layout.prompts(times.like(np.arange(40)), times, 50 * DAY_US, asked)
            assert len(prompt) <= longest
        plain = layout.prompts(times.like(np.arange(40)), times, 50 * DAY_US)
        assert longest == max(len(plain[0]), 20 + 2 + 2 * card.events)
    for asked_for, room in ((70, 70), (5_000, 128), (None, 128)):
        assert VllmEngine(model, EngineSettings(longest=asked_for)).longest == room
        assert given[-1]["max_model_len"] == room
