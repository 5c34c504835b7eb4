"""Every broken input ends in a clear error or in quarantine, never in a bare traceback or a wrong history."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_configs import CONFIG_CASES
from broken_inputs import DATA_CASES, Broken
from small_shop import good_config, good_files, run

CASES = (*DATA_CASES, *CONFIG_CASES)


def test_the_unbroken_dataset_is_valid(tmp_path: Path) -> None:
    outcome = run(tmp_path, good_config(), good_files())
    assert outcome.reasons == {}
    assert outcome.rows.accepted == 3
    assert {user: len(history["item"]) for user, history in outcome.histories().items()} == {"ann": 2, "bob": 1}


def test_there_are_at_least_sixty_cases_with_unique_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_broken_input_ends_in_a_clear_error_or_in_quarantine(case: Broken, tmp_path: Path) -> None:
    if case.error is not None:
        with pytest.raises(case.error) as caught:
            run(tmp_path, case.config, case.files, case.day)
        for words in case.says:
            assert words in str(caught.value)
        assert len(str(caught.value)) < 2_000
        return
    outcome = run(tmp_path, case.config, case.files, case.day)
    assert outcome.reasons == case.reasons
    if case.histories is not None:
        assert len(outcome.histories()) == case.histories
    for row in outcome.quarantine.to_pylist():
        assert row["row"] >= 1
        assert row["file"].startswith("events/")
        assert row["reason"] == "duplicate" or 0 < len(row["raw"]) <= 4096
