"""The HTTP side of the port for tests: a gateway that is well, and parsed answers."""

from __future__ import annotations

import json
from typing import Any

from gateway.net.callers import TRUSTED, UNKNOWN, bearer_of
from gateway.net.http import make_root
from gateway.net.port import SwitchFactory
from gateway.net.site import Site
from gateway.testing import FakeClock
from tests.net.wire import Fast, Wire, websocket_factory

TOKEN = "correct horse"


class FakeProbes:
    """A gateway that is well, until told otherwise."""

    version = "1.2.3"

    def __init__(self) -> None:
        self.is_live = True
        self.is_started = True
        self.broken: list[str] = []
        self.because: dict[str, str] = {}
        self.loop_state: dict[str, Any] | None = None

    def live(self) -> bool:
        return self.is_live

    def started(self) -> bool:
        return self.is_started

    def failing(self) -> list[str]:
        return list(self.broken)

    def reasons(self) -> dict[str, str]:
        return dict(self.because)

    def uptime_ms(self) -> int:
        return 1234

    def event_loop(self) -> dict[str, Any] | None:
        return self.loop_state


class Answer:
    """One parsed response, and what came behind it."""

    def __init__(self, data: bytes, *, body: bool = True) -> None:
        top, _, rest = data.partition(b"\r\n\r\n")
        status, *lines = top.decode().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in lines)
        }
        length = int(self.headers["content-length"]) if body else 0
        self.body, self.rest = rest[:length], rest[length:]

    def json(self) -> Any:
        """Return the decoded body."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class Web:
    """The gateway's port with its HTTP side."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.probes = FakeProbes()
        self.root = make_root(
            self.probes,
            authorize=lambda request: TRUSTED if bearer_of(request) == TOKEN else UNKNOWN,
            exposition=lambda: b"gateway_up 1\n",
        )
        sockets = websocket_factory(Fast, self.clock, openHandshakeTimeout=0)
        self.site = Site(self.root, self.clock, websocket=sockets)
        self.factory = SwitchFactory(sockets, self.site, self.clock)

    def connect(self, peer: Any = None) -> Wire:
        """Return the wire of a new connection from an address; loopback by default."""
        wire = Wire()
        if peer is not None:
            wire.peerAddr = peer
        wire.connect(self.factory.buildProtocol(wire.getPeer()))
        return wire

    def ask(self, data: bytes, *, host: str = "127.0.0.1", peer: Any = None) -> Answer:
        """Send a request on a connection of its own and return the answer."""
        wire = self.connect(peer or Wire(host).getPeer())
        wire.receive(data)
        method = data.partition(b" ")[0]
        return Answer(wire.sent, body=method != b"HEAD")


PATHS = ["/", "/health", "/healthz", "/ready", "/readyz", "/startup", "/startupz", "/metrics"]
"""Every path there is."""
