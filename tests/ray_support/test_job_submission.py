"""`rayrec submit` against a job API that fails as real ones do: the job's own exit code, its whole log, once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_job_api import FakeJobApi, ended, fake_job_api, running
from typer.testing import CliRunner
from waiting import PATIENCE_S, line_of

from jobs.submit import main
from rayrec.ray_support.capacity import ClusterError
from rayrec.ray_support.job_submission import LostJobError, RemoteJob

COMMAND = "python -m jobs.daily --config C"


class Following:
    """A RemoteJob under a clock that its pauses move, and what it shows and says."""

    def __init__(self, api: FakeJobApi, name: str | None = None, patience_s: float = 600, address: str = "") -> None:
        self.log, self.words, self.now = "", "", 0.0
        self.job = RemoteJob(
            address or api.url,
            name,
            patience_s=patience_s,
            show=self._show,
            say=self._say,
            pause=self._pause,
            clock=lambda: self.now,
        )

    def _show(self, text: str) -> None:
        self.log += text

    def _say(self, words: str) -> None:
        self.words += words + "\n"

    def _pause(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def end(self) -> int:
        self.job.submit(COMMAND, None)
        return self.job.follow()


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130])
def test_the_exit_code_is_the_jobs_own(code: int) -> None:
    with fake_job_api(states=[{"status": "PENDING"}, running(), ended(code)], logs=["", "one\n", "one\ntwo\n"]) as api:
        following = Following(api)
        assert following.end() == code
        assert following.log == "one\ntwo\n"
        assert [sent["entrypoint"] for sent in api.posts] == [COMMAND]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (ended(-9), 137),
        (ended(None, "SUCCEEDED"), 0),
        (ended(None, "STOPPED"), 143),
        (ended(None, "FAILED"), 1),
    ],
)
def test_a_job_that_ended_without_a_code_of_its_own_has_that_of_its_state(state: dict[str, Any], code: int) -> None:
    with fake_job_api(states=[state]) as api:
        following = Following(api)
        assert following.end() == code
        assert ("the message" in following.words) == (code == 1)


@pytest.mark.parametrize("status", [None, 500, 502, 503, 429])
@pytest.mark.parametrize("request_", ["version", "POST", "GET /api/jobs/[^/]+$", "logs"])
def test_answers_that_are_lost_change_neither_code_nor_log(request_: str, status: int | None) -> None:
    logs = ["one\n", "one\ntwo\n", "one\ntwo\nthree\n"]
    with fake_job_api(states=[running(), running(), ended(3)], logs=logs) as api:
        api.drops = [(request_, status)] * 4
        following = Following(api)
        assert following.end() == 3
        assert following.log == logs[-1]
        assert api.drops == []
        assert ("answers again" in following.words) == (request_ != "logs")
        assert len(api.jobs) == 1


def test_a_submission_whose_answer_was_lost_is_not_submitted_twice() -> None:
    with fake_job_api(states=[running(), ended(3)]) as api:
        api.accepts_before_drop, api.drops = True, [("POST", None)]
        following = Following(api)
        assert following.end() == 3
        assert len(api.jobs) == 1
        assert len(api.posts) == 2


def test_an_api_that_stays_away_is_exit_5_which_names_the_job() -> None:
    with fake_job_api(states=[running()]) as api:
        following = Following(api, "nightly")
        following.job.submit(COMMAND, None)
        api.drops = [("jobs", None)] * 10_000
        with pytest.raises(LostJobError, match="10 minutes") as lost:
            following.job.follow()
    assert lost.value.exit_code == 5
    assert "--submission-id nightly" in lost.value.hint
    assert 600 <= following.now < 620
    assert following.words.count("does not answer") == 1


def test_a_restarted_head_that_forgot_the_job_is_exit_5() -> None:
    with fake_job_api(states=[running()]) as api:
        following = Following(api)
        following.job.submit(COMMAND, None)
        api.jobs.clear()
        with pytest.raises(LostJobError, match="does not know the job"):
            following.job.follow()


def test_a_job_that_runs_is_followed_and_one_that_failed_is_submitted_again() -> None:
    with fake_job_api(states=[running(), running(), ended(3)]) as api:
        first = Following(api, "dt-2026-01-31")
        first.job.submit(COMMAND, None)
        second = Following(api, "dt-2026-01-31")
        assert second.end() == 3
        assert "following it" in second.words
        assert list(api.jobs) == ["dt-2026-01-31"]
        third = Following(api, "dt-2026-01-31")
        assert third.end() == 3
        assert list(api.jobs) == ["dt-2026-01-31", "dt-2026-01-31-2"]
        with pytest.raises(ClusterError, match="another command has this id"):
            Following(api, "dt-2026-01-31").job.submit("python -m jobs.fit", None)


@pytest.mark.parametrize("address", ["ray://head:10001", "head:8265", "https:///x"])
def test_an_address_that_is_none_of_a_job_api_is_refused(address: str) -> None:
    with fake_job_api() as api, pytest.raises(ClusterError, match="no address of a job API"):
        Following(api, address=address)


def test_a_server_that_is_no_job_api_is_refused_at_once() -> None:
    with fake_job_api() as api:
        api.drops = [("version", 404)]
        following = Following(api)
        with pytest.raises(ClusterError, match="Version check returned 404"):
            following.end()
        assert following.now == 0


def test_the_given_address_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:2")
    with fake_job_api(states=[ended(0)]) as api:
        assert Following(api).end() == 0


def test_the_command_line_gives_log_and_code(tmp_path: Path) -> None:
    with fake_job_api(states=[ended(4)], logs=["refused\n"]) as api:
        words = ["python", "-m", "jobs.daily", "--set", "a.b=two words"]
        result = CliRunner().invoke(main, ["--address", api.url, "--working-dir", "", "--", *words])
        assert result.exit_code == 4
        assert "refused\n" in result.output
        assert api.posts[0]["entrypoint"] == "python -m jobs.daily --set 'a.b=two words'"
        missing = CliRunner().invoke(
            main, ["--address", api.url, "--working-dir", str(tmp_path / "none"), "--", *words]
        )
        assert missing.exit_code == 2
        assert "no such folder" in missing.output


@pytest.mark.slow  # a process of its own, because of the signal
def test_ctrl_c_stops_following_and_says_that_the_job_goes_on() -> None:
    with fake_job_api(states=[running()], logs=["at work\n"]) as api:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.submit", "--address", api.url, "--working-dir", "", "--", "sleep", "600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line_of(process, process.stdout, lambda line: line == "at work\n")
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
        (name,) = api.jobs
        assert f"the job {name} goes on" in words
        assert f"ray job stop --address {api.url} {name}" in words
