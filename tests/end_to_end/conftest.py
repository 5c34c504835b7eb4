"""One whole night, with vLLM, for all tests here."""

from __future__ import annotations

import pytest
from nights import Made, make

from rayrec.pipeline import daily
from rayrec.pipeline.daily import Night


@pytest.fixture(scope="session")
def first_night(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Night]:
    made = make(tmp_path_factory.mktemp("shop"))
    return made, daily.run(made.day(made.root))
