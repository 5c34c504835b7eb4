"""One small trained model, shared by all tests here."""

from __future__ import annotations

import pytest
from small_users import trained

from rayrec.embeddings import Embedder


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return trained()
