"""jobs.forget on a Ray cluster; tests/erasure has everything else about it, without Ray."""

from __future__ import annotations

import shutil
from pathlib import Path

from small_runs import CONFIG, WITHOUT_LLM, Run
from typer.testing import CliRunner

from jobs import forget
from rayrec import read_slates


def test_erased_users_are_gone_from_the_slates(without_llm: Run, tmp_path: Path) -> None:
    workspace, result = without_llm
    shutil.copytree(result.context.config.output.root, tmp_path / "out")
    before = read_slates(tmp_path / "out", workspace.dataset.date)
    gone = before["user_id"][0].as_py()
    (tmp_path / "users.csv").write_text(f"user_id\n{gone}\n")
    sets = [word for one in workspace.overrides(tmp_path / "out", WITHOUT_LLM) for word in ("--set", one)]
    given = ["--config", str(CONFIG), *sets, "--users", str(tmp_path / "users.csv")]
    done = CliRunner().invoke(forget.main, given)
    assert done.exit_code == 0, done.output
    after = read_slates(tmp_path / "out", workspace.dataset.date, verify=True)
    assert set(before["user_id"].to_pylist()) - set(after["user_id"].to_pylist()) == {gone}
