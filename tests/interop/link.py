"""A network between a client and a gateway that can be cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

_CHUNK = 65536


class Link:
    """A relay on a free port of loopback; while it is cut every connection breaks."""

    def __init__(self, port: int) -> None:
        """Relay to this port of loopback."""
        self._target = port
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        """All there ever were: each is used by two threads, so they are closed at the end."""
        self._cut = False
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)
        for each in self._sockets:
            each.close()

    @property
    def url(self) -> str:
        """Return the address that clients connect to."""
        return f"ws://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Break all connections, and each new one at once."""
        with self._lock:
            self._cut = True
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Relay new connections again."""
        with self._lock:
            self._cut = False

    def _listen(self) -> None:
        while not self._closed:
            try:
                near = self._listener.accept()[0]
            except OSError:
                continue
            with self._lock:
                if self._cut or self._closed:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
            for source, target in ((near, far), (far, near)):
                thread = threading.Thread(target=self._relay, args=(source, target), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                target.sendall(data)
        with self._lock:
            for each in (source, target):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
