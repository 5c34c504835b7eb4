"""Alerts by webhook: what is posted, to whom, and that nothing about it ends a run. A local server receives them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from rayrec.config import Config, load
from rayrec.errors import ConfigError, DataError, GuardrailError
from rayrec.monitoring import webhook
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.run_watch import watched

CONF = Path(__file__).parents[2] / "jobs" / "demo.yaml"


class Receiver(HTTPServer):
    """Collects the documents that are posted to /hook; /away redirects, /broken fails."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[dict[str, Any]] = []

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = {"/away": 307, "/broken": 500}.get(self.path, 204)
        if self.path == "/hook":
            assert self.headers["Content-Type"] == "application/json"
            self.server.received.append(body)
        self.send_response(status)
        if status == 307:
            self.send_header("Location", self.server.url())
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def context(tmp_path: Path, url: str) -> RunContext:
    config = load(CONF, [f"alerts.webhook={url}", f"output.root={tmp_path}", f"data.root={tmp_path}", "data.shards=2"])
    return RunContext(config, date(2026, 3, 2))


def test_a_failure_is_posted_and_raised_again(receiver: Receiver, tmp_path: Path) -> None:
    error = DataError("no file matches\nrow 7: somebody", where="events", hint="look")

    def job() -> None:
        with watched(context(tmp_path, receiver.url())) as status:
            status.enter("ingest")
            raise error

    with pytest.raises(DataError) as caught:
        job()
    assert caught.value is error
    (posted,) = receiver.received
    assert posted == {
        "run": "demo",
        "date": "2026-03-02",
        "run_id": "",
        "state": "failed",
        "stage": "ingest",
        "exit_code": 2,
        "error": "no file matches",
        "text": "rayrec demo 2026-03-02: failed (exit 2): no file matches",
    }


def test_a_defect_is_posted_without_secrets(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    with pytest.raises(KeyError), watched(context(tmp_path, receiver.url())):
        raise KeyError("very-secret-value")
    (posted,) = receiver.received
    assert (posted["state"], posted["exit_code"]) == ("failed", 1)
    assert "very-secret-value" not in json.dumps(posted)


def test_guardrails_are_posted_as_blocked_or_as_a_warning(receiver: Receiver, tmp_path: Path) -> None:
    with pytest.raises(GuardrailError), watched(context(tmp_path, receiver.url())):
        raise GuardrailError("nothing is published: guardrail users: 3 users; bound: at least 9")
    with watched(context(tmp_path, receiver.url())) as status:
        status.warn(["guardrail users: 3 users; bound: at least 9"])
    with watched(context(tmp_path, receiver.url())):
        pass
    said = [(one["state"], one["exit_code"], one["error"]) for one in receiver.received]
    words = "guardrail users: 3 users; bound: at least 9"
    assert said == [("blocked", 4, f"nothing is published: {words}"), ("warning", 0, words)]


def test_a_stopped_run_posts_nothing(receiver: Receiver, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), watched(context(tmp_path, receiver.url())):
        raise KeyboardInterrupt
    assert receiver.received == []


@pytest.mark.parametrize(("path", "why"), [("/broken", "500"), ("/away", "307")])
def test_an_answer_that_is_no_success_ends_nothing(
    receiver: Receiver, path: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert not webhook.post(receiver.url(path), {})
    assert why in caplog.text
    assert path not in caplog.text
    assert receiver.received == []  # the redirect was not followed


def test_nobody_who_listens_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/token-of-mine"
    with caplog.at_level(logging.WARNING):
        assert not webhook.post(url, {})
    assert "not delivered" in caplog.text
    assert "token-of-mine" not in caplog.text


def test_the_url_may_come_from_the_environment(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOOK", receiver.url())
    assert webhook.post("env:HOOK", {"a": 1})
    assert receiver.received == [{"a": 1}]
    monkeypatch.setenv("HOOK", "http://example.com/token-of-mine")
    with caplog.at_level(logging.WARNING):
        assert not webhook.post("env:HOOK", {})
    assert "over https" in caplog.text
    assert "token-of-mine" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x",
        "http://localhost.example.com/x",
        "ftp://localhost/x",
        "https://",
        "https://user:word@example.com/x",
        "http://[::1",
        "https://example.com/a b",
        "example.com",
        "env:",
        "file:///etc/passwd",
    ],
)
def test_other_urls_are_refused_when_the_config_is_read(url: str) -> None:
    with pytest.raises(ConfigError, match=r"alerts\.webhook"):
        load(CONF, [f"alerts.webhook='{url}'"])


@pytest.mark.parametrize(
    "url", ["https://example.com/x?token=1", "http://localhost:80/x", "http://[::1]:80/", "env:A_1"]
)
def test_https_and_localhost_are_accepted_and_change_no_fingerprint(url: str) -> None:
    loaded: Config = load(CONF, [f"alerts.webhook='{url}'"])
    assert loaded.fingerprint == load(CONF).fingerprint
