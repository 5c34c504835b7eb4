"""The contract of interactions in any Arrow type, encoding and layout equals an oracle in plain Python."""

from __future__ import annotations

import contract_fuzzing
import pytest

pytestmark = pytest.mark.slow  # many inputs


def test_the_same_rows_in_any_type_encoding_and_layout_give_the_same_histories() -> None:
    contract_fuzzing.fuzz(60)
