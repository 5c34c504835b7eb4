"""A local storage for the publishing tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayrec.storage import Storage


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))
