"""A complete run with vLLM, shared by the tests here."""

from __future__ import annotations

import pytest
from small_runs import Run, make

from rayrec.pipeline import daily_run


@pytest.fixture(scope="session")
def first_run(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    workspace = make(tmp_path_factory.mktemp("shop"))
    return workspace, daily_run.run(workspace.context(workspace.root))
