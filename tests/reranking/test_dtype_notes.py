"""A run says where `rerank.dtype: auto` computes in float32 on a CPU that is faster in bfloat16."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rayrec.config import Rerank, Resources
from rayrec.pipeline.placement import dtype_notes
from rayrec.pipeline.run_context import RunContext
from rayrec.storage.hf_checkpoint import stored_dtype


def context(folder: Path, *, gpus: float = 0, **rerank: Any) -> RunContext:
    method = Rerank(method="pointwise", checkpoint=str(folder), **rerank)
    arms = SimpleNamespace(variants=lambda stage: [SimpleNamespace(read=lambda section: method)])
    config = SimpleNamespace(resources=Resources(rerank_num_gpus=gpus))
    return cast(RunContext, SimpleNamespace(arms=arms, config=config))


def checkpoint(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(params=["amx_bf16 amx_tile", "avx512_bf16"])
def quick(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    (tmp_path / "cpuinfo").write_text(f"flags : fpu avx512f {request.param}\n")
    return tmp_path / "cpuinfo"


def test_float32_is_said_where_bfloat16_is_faster(tmp_path: Path, quick: Path) -> None:
    folder = checkpoint(tmp_path, {"dtype": "float32"})
    (note,) = dtype_notes(context(folder), quick)
    assert "computes pointwise in float32" in note
    plain = tmp_path / "other"
    plain.write_text("flags : fpu avx2\n")
    assert dtype_notes(context(folder), plain) == ()
    assert dtype_notes(context(folder, dtype="float32"), quick) == ()  # chosen
    assert dtype_notes(context(folder, gpus=1), quick) == ()


@pytest.mark.parametrize(
    ("content", "dtype"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"text_config": {"torch_dtype": "bfloat16"}}, "bfloat16"),  # of several modalities
        ({}, "float32"),
    ],
)
def test_stored_dtype_is_read_from_the_config(tmp_path: Path, quick: Path, content: dict[str, Any], dtype: str) -> None:
    folder = checkpoint(tmp_path, content)
    assert stored_dtype(str(folder)) == dtype
    assert len(dtype_notes(context(folder), quick)) == (dtype == "float32")
