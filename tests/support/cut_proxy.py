"""A TCP proxy whose connections can be cut: as a client sees a restarted server, or a tunnel that is lost."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Thread


class CutProxy:
    """Forwards a port of its own to `target` (host, port) until `cut`, and again from the next `open` on."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target, self._sockets, self.port = target, list[socket.socket](), 0
        self.open()

    def open(self) -> None:
        """Accept connections, always on the same port."""
        self._server = socket.create_server(("127.0.0.1", self.port))
        self.port = self._server.getsockname()[1]
        Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def cut(self) -> None:
        """Refuse connections, and end those that there are."""
        for each in [self._server, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets.clear()

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
