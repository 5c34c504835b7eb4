from __future__ import annotations

import pytest
from small_model import PATH, publish

from rayrec.reranking.engines.engine import Engine, EngineSettings
from rayrec.reranking.engines.transformers_engine import TransformersEngine
from rayrec.reranking.engines.vllm_engine import VllmEngine
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint
from rayrec.storage import Storage


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> LocalCheckpoint:
    root = tmp_path_factory.mktemp("small-model")
    storage = Storage(str(root / "store"))
    publish(root, storage)
    return tuned_checkpoint.fetch_checkpoint(storage, PATH)


@pytest.fixture(scope="session")
def vllm_engine(small_model: LocalCheckpoint) -> Engine:
    """vLLM on CPU, float32, one thread (see vllm_engine.py on bits): one for the whole session."""
    return VllmEngine(small_model, EngineSettings(threads=1))


@pytest.fixture(scope="session")
def reference_engine(small_model: LocalCheckpoint) -> Engine:
    return TransformersEngine(small_model, EngineSettings())
