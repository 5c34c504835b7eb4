from __future__ import annotations

import pytest
from fake_gpu import gpu  # noqa: F401  # a fixture
from small_model import PATH, publish

from rayrec.reranking.engines.engine import Engine, EngineSettings
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.engines.vllm_runner import VllmRunner
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.item_token.item_head import ItemHead
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
    """vLLM on CPU, float32, one thread (see vllm_runner.py on reproducibility): one for the whole session."""
    return VllmRunner(small_model.model_files, "hidden_state", EngineSettings(threads=1))


@pytest.fixture(scope="session")
def reference_engine(small_model: LocalCheckpoint) -> Engine:
    return TransformersRunner(small_model.model_files, "hidden_state", EngineSettings())


@pytest.fixture(scope="session")
def item_head(small_model: LocalCheckpoint) -> ItemHead:
    return ItemHead.of(small_model)
