from __future__ import annotations

import pytest
from small_model import PATH, publish

from rayrec.reranking import artefact
from rayrec.reranking.artefact import LocalModel
from rayrec.reranking.base import Engine, EngineSettings
from rayrec.reranking.transformers_engine import TransformersEngine
from rayrec.reranking.vllm_engine import VllmEngine
from rayrec.storage import Storage


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    root = tmp_path_factory.mktemp("small-model")
    storage = Storage(str(root / "store"))
    publish(root, storage)
    return artefact.localise(storage, PATH)


@pytest.fixture(scope="session")
def vllm_engine(small_model: LocalModel) -> Engine:
    """vLLM on CPU, float32, one thread (see vllm_engine.py on bits): one for the whole session."""
    return VllmEngine(small_model, EngineSettings(threads=1))


@pytest.fixture(scope="session")
def reference_engine(small_model: LocalModel) -> Engine:
    return TransformersEngine(small_model, EngineSettings())
