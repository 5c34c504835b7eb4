"""Command-line behaviour of all jobs: readable errors with their own exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, settings
from rayrec.errors import QuarantineError, RayrecError, user_error

CONF = Path(__file__).parents[2] / "jobs" / "demo.yaml"


def job(config: ConfigPath, date: DateOption, overrides: Overrides = None, print_config: PrintConfig = False) -> None:
    loaded = settings(config, overrides, print_config)
    if loaded.name == "broken":
        raise QuarantineError(
            "61% [red]of the rows[/red] broke the contract", where="events", hint="look at quarantine/"
        )
    if loaded.name == "defect":
        raise KeyError("a defect of ours")
    print(f"{loaded.name} on {as_date(date)}")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command(job), ["--config", str(CONF), *arguments])
    return result.exit_code, result.output


def test_options_reach_the_job() -> None:
    assert run("--date", "2026-03-02", "--set", "name=shop") == (0, "shop on 2026-03-02\n")


def test_an_expected_error_is_printed_with_its_exit_status() -> None:
    status, output = run("--date", "2026-03-02", "--set", "name=broken")
    assert status == 3
    assert output == (
        "error: 61% [red]of the rows[/red] broke the contract\n  where: events\n  to do: look at quarantine/\n"
    )


def test_an_unexpected_error_keeps_its_traceback() -> None:
    result = CliRunner().invoke(command(job), ["--config", str(CONF), "--date", "2026-03-02", "--set", "name=defect"])
    assert isinstance(result.exception, KeyError)


def test_print_config_prints_settings_that_load_again(tmp_path: Path) -> None:
    status, output = run("--date", "2026-03-02", "--print-config", "--set", "slate.size=7")
    assert status == 0
    again = tmp_path / "again.yaml"
    again.write_text(output, encoding="utf8")
    assert settings(again, None).slate.size == 7
    assert yaml.safe_load(output)["name"] == "demo"


@pytest.mark.parametrize("date", ["2026-02-30", "yesterday", "02/03/2026"])
def test_an_invalid_date_is_an_error(date: str) -> None:
    status, output = run("--date", date)
    assert status == 2
    assert "Invalid value" in output


def test_the_error_of_a_ray_task_is_the_one_the_user_reads() -> None:
    from ray.exceptions import RayTaskError

    cause = QuarantineError("too many rows broke the contract")
    wrapped = RayTaskError("ingest", "Traceback ...", cause)
    assert user_error(wrapped) is cause
    assert user_error(wrapped.as_instanceof_cause()) is cause
    assert user_error(ValueError("x")) is None
    plain = RayrecError("x")
    assert user_error(plain) is plain


def test_an_error_is_one_line_of_json() -> None:
    status, output = run("--date", "2026-03-02", "--set", "name=broken", "--log-format", "json")
    assert status == 3
    (line,) = output.splitlines()
    said = json.loads(line)
    assert (said["level"], said["exit_code"]) == ("error", 3)
    assert said["error"] == "61% [red]of the rows[/red] broke the contract"
    assert (said["where"], said["to_do"]) == ("events", "look at quarantine/")
    assert run("--date", "2026-03-02", "--set", "name=broken")[1].startswith("error: ")  # text again


def test_another_log_format_is_an_error() -> None:
    status, output = run("--date", "2026-03-02", "--log-format", "xml")
    assert status == 2
    assert "log-format" in output


def test_a_defect_is_one_line_of_json_with_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    given = ["--config", str(CONF), "--date", "2026-03-02", "--set", "name=defect", "--log-format", "json"]
    error = CliRunner().invoke(command(job), given).exception
    assert isinstance(error, KeyError)
    sys.excepthook(KeyError, error, None)
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["message"], said["exit_code"]) == ("KeyError", 1)
    assert "a defect of ours" in said["traceback"]
