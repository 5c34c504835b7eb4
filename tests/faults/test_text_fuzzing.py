"""Config, YAML, templates and instruction text by hypothesis: only user errors come out, and nothing hangs."""

from __future__ import annotations

import pytest
import text_fuzzing

pytestmark = pytest.mark.slow  # many inputs

NAMES = tuple(text_fuzzing.inputs())


@pytest.mark.parametrize("name", NAMES)
def test_any_input_ends_in_words_or_holds_together(name: str) -> None:
    text_fuzzing.fuzz(name, examples=40)
