"""A stand-in for the job API of a Ray head: jobs that follow a script, and answers that are lost on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import ray


@dataclass
class FakeJob:
    """Its answers to one question after another; the last one stays."""

    entrypoint: str
    states: list[dict[str, Any]]
    logs: list[str]

    def next_state(self) -> dict[str, Any]:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def next_log(self) -> str:
        if len(self.states) == 1:  # it has ended: the log is whole
            return self.logs[-1]
        return self.logs.pop(0) if len(self.logs) > 1 else self.logs[0]


@dataclass
class FakeJobApi:
    """`drops`: how many of the next requests whose path fits its pattern get no answer, or that HTTP status."""

    states: list[dict[str, Any]] = field(default_factory=lambda: [ended(0)])
    logs: list[str] = field(default_factory=lambda: [""])
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    drops: list[tuple[str, int | None]] = field(default_factory=list)
    accepts_before_drop: bool = False
    posts: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def dropped(self, request: str) -> tuple[bool, int | None]:
        for place, (pattern, status) in enumerate(self.drops):
            if re.search(pattern, request):
                del self.drops[place]
                return True, status
        return False, None

    def submit(self, sent: dict[str, Any]) -> tuple[int, Any]:
        self.posts.append(sent)
        name = sent["submission_id"]
        if name in self.jobs:  # as Ray's head: the refusal of its node within a 500
            nested = f"ValueError: Job with submission_id {name} already exists."
            return 500, f"Traceback …\nRuntimeError: Request failed with status code 400: {nested}"
        self.jobs[name] = FakeJob(sent["entrypoint"], list(self.states), list(self.logs))
        return 200, {"job_id": name, "submission_id": name}

    def answer(self, path: str) -> tuple[int, Any]:
        if path == "/api/version":
            return 200, {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": ""}
        name, _, rest = path.removeprefix("/api/jobs/").partition("/")
        if name not in self.jobs:
            return 404, f"Job {name} does not exist"
        job = self.jobs[name]
        if rest == "logs":
            return 200, {"logs": job.next_log()}
        return 200, {"type": "SUBMISSION", "submission_id": name, "entrypoint": job.entrypoint, **job.next_state()}


def running() -> dict[str, Any]:
    return {"status": "RUNNING"}


def ended(code: int | None, status: str | None = None) -> dict[str, Any]:
    return {"status": status or ("FAILED" if code else "SUCCEEDED"), "driver_exit_code": code, "message": "the message"}


@contextmanager
def fake_job_api(**script: Any) -> Iterator[FakeJobApi]:
    """A server on a port of its own for as long as the block runs."""
    api = FakeJobApi(**script)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(lambda: api.answer(self.path))

        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._reply(lambda: api.submit(sent))

        def _reply(self, act: Any) -> None:
            lost, status = api.dropped(f"{self.command} {self.path}")
            if lost and status is None:
                if api.accepts_before_drop:
                    act()
                self.close_connection = True
                return
            code, content = (status, "come back later") if lost and status else act()
            body = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: tests print no access log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
