"""`jobs.backfill`: missed dates in order, published ones skipped, the first failure ends it."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from jobs import backfill
from rayrec.errors import ConfigError
from rayrec.storage import Storage, layout

JANUARY = [datetime.date(2026, 1, day) for day in range(1, 32)]


class Backfill:
    """The job on a real output root, with runs that only publish, or end with a code."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.ran, self.codes = root, list[str](), dict[str, int]()
        self.config = Path(__file__).parents[2] / "jobs" / "demo.yaml"
        monkeypatch.setattr(backfill, "run", self._run)
        monkeypatch.setattr(backfill, "find_manifest", lambda storage, day: self._published(day) or None)

    def _published(self, day: datetime.date) -> bool:
        return Storage(str(self.root / "out")).exists(layout.manifest_path(day))

    def publish(self, day: str) -> None:
        Storage(str(self.root / "out")).write(layout.manifest_path(datetime.date.fromisoformat(day)), b"{}")

    def _run(self, words: list[str]) -> int:
        self.words, day = words, words[words.index("--date") + 1]
        self.ran.append(day)
        if not (code := self.codes.get(day, 0)):
            self.publish(day)
        return code

    def __call__(self, first: str, last: str, *more: str) -> Result:
        given = ["--config", str(self.config), "--set", f"output.root={self.root / 'out'}"]
        return CliRunner().invoke(backfill.main, [*given, "--from", first, "--to", last, *more])


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backfill:
    return Backfill(tmp_path, monkeypatch)


def test_missed_dates_run_in_order_and_published_ones_are_skipped(job: Backfill) -> None:
    job.publish("2026-01-30")
    result = job("2026-01-29", "2026-02-01")
    assert result.exit_code == 0, result.output
    assert job.ran == ["2026-01-29", "2026-01-31", "2026-02-01"]
    assert "2026-01-30 is published already: skipped" in result.output
    assert "3 dates published, 1 skipped" in result.output
    assert job("2026-01-29", "2026-02-01").exit_code == 0
    assert len(job.ran) == 3  # nothing ran again


@pytest.mark.parametrize("code", [1, 2, 3, 4])
def test_the_first_failure_ends_it_with_its_code(job: Backfill, code: int) -> None:
    job.codes["2026-01-02"] = code
    result = job("2026-01-01", "2026-01-04")
    assert result.exit_code == code
    assert job.ran == ["2026-01-01", "2026-01-02"]
    assert "not tried: 2026-01-03, 2026-01-04" in result.output
    job.codes.clear()
    assert job("2026-01-01", "2026-01-04").exit_code == 0
    assert job.ran[2:] == ["2026-01-02", "2026-01-03", "2026-01-04"]


def test_a_dry_run_runs_nothing(job: Backfill) -> None:
    result = job("2026-01-01", "2026-01-02", "--dry-run")
    assert result.exit_code == 0
    assert "2 dates would run" in result.output
    assert job.ran == []


def test_a_run_gets_the_same_settings(job: Backfill) -> None:
    job("2026-01-01", "2026-01-01")
    given = ["--config", str(job.config), "--set", f"output.root={job.root / 'out'}"]
    assert job.words == [sys.executable, "-m", "jobs.daily", *given, "--date", "2026-01-01"]


def test_a_period_that_ends_before_it_begins_is_refused(job: Backfill) -> None:
    assert backfill.dates(JANUARY[0], JANUARY[-1]) == JANUARY
    with pytest.raises(ConfigError, match="ends before it begins"):
        backfill.dates(JANUARY[1], JANUARY[0])
    assert job("2026-01-02", "2026-01-01").exit_code == 2


@pytest.mark.parametrize(("script", "code"), [("exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_code_of_a_run_is_as_shells_report_it(script: str, code: int) -> None:
    assert backfill.run([sys.executable, "-c", script]) == code


def test_a_run_ends_with_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[backfill.subprocess.Popen[str]] = []

    class Interrupted(backfill.subprocess.Popen[str]):
        def wait(self, timeout: float | None = None) -> int:
            if self not in started:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(backfill.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        backfill.run([sys.executable, "-c", "import time; time.sleep(600)"])
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)
