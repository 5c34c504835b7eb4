from __future__ import annotations

from pathlib import Path

import pytest
from small_checkpoints import FAMILIES, build

from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("small-checkpoints")
    return {family: build(root, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def qwen3(folders: dict[str, Path]) -> InstructCheckpoint:
    return InstructCheckpoint.open(str(folders["qwen3"]))


@pytest.fixture(scope="session", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, folders: dict[str, Path]) -> InstructCheckpoint:
    return InstructCheckpoint.open(str(folders[request.param]))
