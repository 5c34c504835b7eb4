"""The real checkpoint of the slow tests: SmolLM2-135M-Instruct in bfloat16, which `make models` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

SMOLLM2 = Path(__file__).resolve().parents[2] / "models" / "smollm2-135m-instruct"


def smollm2_folder() -> str:
    """Its folder. A test without it fails."""
    if not (SMOLLM2 / "config.json").is_file():
        pytest.fail(f"there is no checkpoint in {SMOLLM2}: run `make models`", pytrace=False)
    return str(SMOLLM2)
