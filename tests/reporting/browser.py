"""A headless Chromium, controlled through the DevTools protocol."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from waiting import PATIENCE_S, line_of
from websockets.sync.client import ClientConnection, connect

CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
_QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0"
)


@dataclass
class Tab:
    """One page. `complaints`: all console messages and network requests."""

    connection: ClientConnection
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _last: int = 0

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        self.connection.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = self._next()
            if message.get("id") == self._last:
                assert "error" not in message, message
                return dict(message["result"])

    def open(self, url: str, width: int, *, dark: bool = False, media: str = "screen") -> None:
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.ask(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.ask("Page.navigate", url=url)
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.connection.recv(timeout=PATIENCE_S))
        if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(message["params"])[:500])
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message


@contextmanager
def tab() -> Iterator[Tab]:
    """A new browser with this page only, closed afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        line = [str(CHROMIUM), *_QUIET.split(), f"--user-data-dir={profile}", "about:blank"]
        browser = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        try:
            listens = line_of(browser, browser.stderr, lambda line: line.startswith("DevTools listening on"))
            address = listens.split()[-1]
            host = address.removeprefix("ws://").split("/")[0]
            with connect(address) as session:
                pages = Tab(session).ask("Target.getTargets")["targetInfos"]
            target = next(page["targetId"] for page in pages if page["type"] == "page")
            with connect(f"ws://{host}/devtools/page/{target}", max_size=None) as connection:
                yield Tab(connection)
        finally:
            browser.kill()
            browser.wait()
