"""SmolLM2-135M-Instruct in every way of asking, on both engines. One vLLM engine for all tests."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import load
from real_checkpoint import smollm2_folder
from safetensors import safe_open

from rayrec.reranking.engines.engine import Engine, EngineSettings, Failure, Float32
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.engines.vllm_runner import VllmRunner
from rayrec.reranking.text import InstructCheckpoint, RankingQuery

pytestmark = pytest.mark.slow  # vLLM, 135 M parameters

LONGEST = 400
TITLES = ("Alien (1979)", "Toy Story (1995)", "Casablanca (1942)", "The Shining (1980)")
QUERY = RankingQuery("a scary film", ("The Exorcist (1973)", "Halloween (1978)"), TITLES)
SHORT = {"item_tokens": 16, "instruction_tokens": 32, "events": 2}
WAYS: list[tuple[str, dict[str, Any]]] = [
    ("pointwise", SHORT),
    ("pairwise", {**SHORT, "top": 3}),
    ("listwise", {**SHORT, "window": 4}),
]


@dataclass(frozen=True)
class Engines:
    checkpoint: InstructCheckpoint
    vllm: Engine  # bfloat16
    bfloat16: Engine  # transformers
    float32: Engine  # transformers


@pytest.fixture(scope="module")
def engines() -> Engines:
    checkpoint = InstructCheckpoint.open(smollm2_folder())

    def settings(dtype: str) -> EngineSettings:
        return EngineSettings(dtype=dtype, threads=1, vllm={"kv_cache_memory_bytes": 64 << 20})

    files = checkpoint.model_files
    half, full = (TransformersRunner(files, "next_token", settings(d), LONGEST) for d in ("bfloat16", "float32"))
    return Engines(checkpoint, VllmRunner(files, "next_token", settings("bfloat16"), LONGEST), half, full)


def scores(engine: Engine, engines: Engines, way: tuple[str, dict[str, Any]]) -> Float32:
    (answer,) = load(way[0], engine, engines.checkpoint, **way[1]).score([QUERY])
    assert not isinstance(answer, Failure), answer
    return answer


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way[0])
def test_engines_agree(engines: Engines, way: tuple[str, dict[str, Any]]) -> None:
    """Within 0.25 nats in bfloat16, whose step is 0.06 at logits of 10 to 20; most of it is in common. Scores of
    `pairwise` are ranks, which near ties may swap."""
    full = scores(engines.float32, engines, way)
    assert full.shape == (len(TITLES),)
    assert np.isfinite(full).all()
    assert full.std() > 1e-3
    for engine in (engines.vllm, engines.bfloat16):
        found = scores(engine, engines, way)
        if way[0] == "pairwise":
            np.testing.assert_allclose(np.sort(found), np.sort(full), atol=1e-6)
        else:
            np.testing.assert_allclose(found, full, atol=0.25)


def test_the_model_speaks_english(engines: Engines) -> None:
    """After a well-known beginning the next word is certain: weights and tokenizer belong together."""
    encode = engines.checkpoint.tokenizer.encode_trusted
    prompt, (right, wrong) = encode("The capital of France is"), (encode(" Paris"), encode(" banana"))
    assert len(right) == len(wrong) == 1
    for engine in (engines.vllm, engines.float32):
        (answer,) = engine.next_token_log_probs([list(prompt)], [right[0], wrong[0]])
        assert not isinstance(answer, Failure)
        assert answer[0] > math.log(0.3)
        assert answer[1] < math.log(0.001)


def test_the_checkpoint_is_an_ordinary_one() -> None:
    folder = Path(smollm2_folder())
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.bfloat16"}  # noqa: SIM118
