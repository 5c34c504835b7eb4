"""A stage of which nothing finishes says what it waits for; one that goes on says nothing."""

from __future__ import annotations

import threading

import pytest

from rayrec.ray_support.stall_watch import describe, watching


def test_a_stage_without_progress_says_what_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    asked = threading.Event()

    def waits_for() -> str:
        asked.set()
        return "waiting for a GPU"

    with watching("score", first_s=0.01, waits_for=waits_for):
        assert asked.wait(600)
    assert "score: nothing finished for 0 minutes; waiting for a GPU" in caplog.text


def test_a_wait_that_never_returns_is_ended_with_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rayrec.ray_support.stall_watch._GRACE_S", 0.0)
    ended, said = threading.Event(), []

    def end(message: str, code: int) -> None:
        said.append((message, code))
        ended.set()

    with watching("ingest", 0.01, first_s=600, waits_for=lambda: "the cluster does not answer", end=end):
        assert ended.wait(600)
    ((message, code),) = said
    assert message.startswith("error: nothing moved on for ingest: 0 minutes: the cluster does not answer")
    assert "run the job again" in message
    assert code == 2


def test_a_first_shard_that_takes_more_than_half_of_the_limit_is_told(caplog: pytest.LogCaptureFixture) -> None:
    times = iter([0.0, *[400.0] * 100])
    with watching("score", 600, clock=lambda: next(times)) as progressed:
        progressed()
        progressed()
    assert caplog.text.count("the first shard took 6.7 minutes, and resources.no_progress_minutes is 10.0") == 1


def test_a_quick_stage_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    with watching("score", 600) as progressed:
        progressed()
    assert caplog.text == ""


def test_requests_and_free_resources_as_text() -> None:
    total = {"CPU": 4.0, "GPU": 0.0, "memory": 1e9}
    text = describe({(("CPU", 1.0), ("GPU", 1.0)): 2, (("CPU", 2.0),): 1}, {"CPU": 1.0}, total)
    assert "waiting for 2 x (1 CPU, 1 GPU); 1 x (2 CPU): 1 of 4 CPUs free, 0 of 0 GPUs free" in text
    assert "it is the work that takes long" in describe({}, {}, total)
