"""Complete runs with vLLM and without an LLM, shared by the tests here."""

from __future__ import annotations

import pytest
from small_runs import WITHOUT_LLM, Run, make

from rayrec.pipeline import daily_run


@pytest.fixture(scope="session")
def first_run(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    workspace = make(tmp_path_factory.mktemp("shop"))
    return workspace, daily_run.run(workspace.context(workspace.root))


@pytest.fixture(scope="session")
def without_llm(first_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without an LLM, over the histories and models of the first run."""
    workspace, _ = first_run
    root = workspace.prepared(tmp_path_factory.mktemp("without") / "out")
    return workspace, daily_run.run(workspace.context(root, WITHOUT_LLM))
