"""A stand-in for a GPU and for vLLM's arithmetic on it: an engine starts if its share of the whole memory is free."""

from __future__ import annotations

import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

TOTAL = 80 << 30


class Gpu:
    """Memory that engines take and keep, and `LLM`, which asks for it as vllm/v1/worker/utils.py does."""

    def __init__(self) -> None:
        self.free, self.started = TOTAL, list[dict[str, Any]]()

    def start(self, gpu_memory_utilization: float = 0.92, **arguments: Any) -> None:
        requested = math.ceil(TOTAL * gpu_memory_utilization)
        if self.free < requested:
            raise ValueError(f"Free memory {self.free} is less than desired GPU memory utilization {requested}")
        self.free -= requested
        self.started.append(arguments | {"gpu_memory_utilization": gpu_memory_utilization})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A GPU, and a stand-in for the package vllm that runs on it."""
    there = Gpu()
    names = {"vllm": {"LLM": there.start}, "vllm.lora": {}, "vllm.lora.request": {"LoRARequest": SimpleNamespace}}
    for name, content in {**names, "vllm.config": {"PoolerConfig": SimpleNamespace}}.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return there
