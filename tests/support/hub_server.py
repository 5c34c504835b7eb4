"""A Hugging Face hub of one repository on a free port: the part of its file API that downloads use.

GET /api/models/REPO/revision/REV and …/tree/REV list files; GET and HEAD /REPO/resolve/REV/FILE give one, with its ETag
and commit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """`token`: if set, requests without it are refused. `asked`: the paths of all requests."""

    folder: Path
    repository: str
    revision: str
    token: str = ""
    endpoint: str = ""
    asked: list[str] = field(default_factory=list)

    def files(self) -> dict[str, Path]:
        return {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}


@contextmanager
def running_hub(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(path)
            files = hub.files()
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._send(401, b"", {"X-Error-Code": "RepoNotFound"}, body)
            elif hub.repository not in path:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
            elif hub.revision not in path:
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
            elif path.startswith(f"/api/models/{hub.repository}/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                    for name, file in sorted(files.items())
                ]
                self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
            elif path.startswith("/api/models/"):
                listed = [{"rfilename": name, "size": file.stat().st_size} for name, file in sorted(files.items())]
                found = {"id": hub.repository, "modelId": hub.repository, "sha": hub.revision, "siblings": listed}
                self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"}, body)
            elif (name := path.partition(f"/resolve/{hub.revision}/")[2]) in files:
                content = files[name].read_bytes()
                tag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": hub.revision}
                self._send(200, content, tag, body)
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)

        def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
