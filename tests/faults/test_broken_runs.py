"""The broken inputs through `jobs.daily`, as an operator sees them; errors in workers come from a real Ray cluster.

test_broken_inputs.py checks every row and history. These tests check the job's output (one case per reason for broken
rows), its exit status, and that nothing invalid is published.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_configs import CONFIG_CASES
from broken_inputs import DATA_CASES, Broken
from one_process import without_ray
from small_shop import DAY, good_config, good_files, write
from typer.testing import CliRunner, Result

from jobs.daily import main
from rayrec import read_slates
from rayrec.errors import PublicationError

pytestmark = pytest.mark.slow  # whole runs

QUICK = ("blend.cutoffs=0", "rerank.method=none", 'retrieval.sources={"ease": {}, "popularity": {}}')
DATA = [case for case in DATA_CASES if case.error is not None]
BROKEN_ROWS = {tuple(case.reasons): case for case in reversed(DATA_CASES) if case.error is None}.values()


def daily(folder: Path, case: Broken) -> Result:
    config = write(folder, case.config, case.files)
    overrides = (f"data.root={folder / 'data'}", f"output.root={folder / 'out'}", *QUICK)
    sets = [part for each in overrides for part in ("--set", each)]
    return CliRunner().invoke(main, ["--config", str(config), "--date", case.day.isoformat(), *sets])


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("case", DATA, ids=lambda case: case.name)
def test_an_error_in_a_worker_names_the_problem_and_nothing_is_published(case: Broken, tmp_path: Path) -> None:
    assert_refused(case, tmp_path)


@pytest.mark.parametrize("case", CONFIG_CASES, ids=lambda case: case.name)
def test_an_error_in_the_config_names_the_problem_and_nothing_is_published(case: Broken, tmp_path: Path) -> None:
    with without_ray():
        assert_refused(case, tmp_path)


def assert_refused(case: Broken, tmp_path: Path) -> None:
    done = daily(tmp_path, case)
    assert done.exit_code in (2, 3), done.output
    assert done.output.count("error: ") == 1
    assert "Traceback" not in done.output
    flat = " ".join(done.output.split())
    for words in case.says:
        assert " ".join(words.split()) in flat
    with pytest.raises(PublicationError, match="nothing is published here"):
        read_slates(tmp_path / "out", case.day)


@pytest.mark.parametrize("case", BROKEN_ROWS, ids=lambda case: case.name)
def test_broken_rows_are_counted_and_the_others_are_published(case: Broken, tmp_path: Path) -> None:
    with without_ray():
        done = daily(tmp_path, case)
    assert done.exit_code == 0, done.output
    for reason, rows in case.reasons.items():
        assert any(reason in line and line.split()[-1] == f"{rows:,}" for line in done.output.splitlines()), done.output
    slates = read_slates(tmp_path / "out", case.day, verify=True)
    assert set(slates["item_id"].to_pylist()) <= {"tea", "cup", "pot", "mug"}


def test_a_date_before_any_data(tmp_path: Path) -> None:
    case = Broken("too early", config=good_config(), files=good_files(), day=DAY.replace(year=2001))
    with without_ray():
        done = daily(tmp_path, case)
    assert done.exit_code == 2
    assert "2001-08-31" in done.output
