"""Strangers on every way through the door: whatever becomes of them, nothing of them is left at the end."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.net.callers import Callers
from gateway.net.http import make_root
from gateway.net.port import SwitchFactory
from gateway.net.site import Site
from gateway.testing import TOKEN
from tests.net.gate import CLI, Gate
from tests.net.web import FakeProbes
from tests.net.wire import Wire, close_frame, head, masked, upgrade

HOSTS = ("127.0.0.1", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1")


def connect(token: str) -> bytes:
    """Return the frame of a connect request."""
    params = {"minProtocol": 4, "maxProtocol": 4, "client": CLI, "auth": {"token": token}}
    frame = {"type": "req", "id": "1", "method": "connect", "params": params}
    return masked(json.dumps(frame).encode())


SENT: dict[str, bytes] = {
    "half a head": b"GET / HTTP/1.1\r\nHost: ",
    "no request": b"\x16\x03\x01\r\n\r\n",
    "too large": b"GET / HTTP/1.1\r\nx: " + b"a" * 17_000,
    "page": head("/healthz"),
    "pipeline": head("/healthz") * 12,
    "half a body": head("/", "POST", Content_Length="10") + b"x",
    "too much body": head("/", "POST", Content_Length="70000"),
    "upgrade": upgrade(),
    "upgrade and connect": upgrade() + connect(TOKEN),
    "bad upgrade": upgrade(Sec_WebSocket_Version="7"),
    "unknown proxy": upgrade(X_Forwarded_For="203.0.113.1"),
    "right": connect(TOKEN),
    "wrong": connect("wrong"),
    "not json": masked(b"{"),
    "unmasked": b"\x81\x01x",
    "goodbye": close_frame(),
}
DO = ("lose", "wait", "wait long", "spend", "give way")


class Door:
    """The whole port in memory, and those who knock."""

    def __init__(self) -> None:
        self.gate = Gate()
        edge = self.edge = self.gate.wiring.edge
        shared: dict[str, Any] = {"strangers": edge.strangers, "turnstile": edge.turnstile}
        root = make_root(
            FakeProbes(), authorize=Callers(edge).authorize, exposition=lambda: b"up 1\n"
        )
        self.site = Site(root, self.gate.clock, websocket=self.gate.wiring.factory, **shared)
        self.port = SwitchFactory(self.gate.wiring.factory, self.site, self.gate.clock, **shared)
        self.wires: list[Wire] = []

    def open(self, host: str) -> Wire:
        """Connect."""
        wire = Wire(host)
        wire.connect(self.port.buildProtocol(wire.getPeer()))
        self.wires.append(wire)
        return wire

    def act(self, wire: Wire, what: str) -> None:
        """Do one thing, as a kernel would let it: who is not read sends nothing."""
        if what == "lose":
            self._lose(wire)
        elif what == "wait":
            self.gate.clock.advance(0.3)
        elif what == "wait long":
            self.gate.clock.advance(16)
        elif what == "give way" and len(self.edge.strangers):
            self.edge.strangers._make_room()
        elif what == "spend":
            self.edge.turnstile._pay(1.0)
        elif wire.producerState == "producing" and wire in self.wires:
            wire.receive(SENT[what])
        for each in [w for w in self.wires if w.disconnecting or w.disconnected]:
            self._lose(each)

    def _lose(self, wire: Wire) -> None:
        if wire in self.wires:
            self.wires.remove(wire)
            wire.lose()

    def left(self) -> dict[str, int]:
        """Return what is left of anybody."""
        edge = self.edge
        counted = {
            "strangers": len(edge.strangers) + len(edge.strangers._lines),
            "weights": len(edge.strangers._levels) + edge.strangers._heaviest,
            "line": len(edge.turnstile) + len(edge.turnstile._lines) + len(edge.turnstile._doors),
            "deadlines": len(edge.deadlines) + len(edge.farewells) + len(edge.halfway),
            "delays": len(edge.delays),
            "heads": self.port.undecided,
            "lingering": len(self.port.lingering) + len(self.site.lingering),
            "connections": len(self.gate.wiring.factory),
        }
        return {name: count for name, count in counted.items() if count}


STEPS = st.tuples(st.integers(0, 3), st.sampled_from([*SENT, *DO]))


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=30))
def test_nothing_is_left_of_strangers(steps: list[tuple[int, str]]) -> None:
    """Refused, expired, handed over, let in, in line or lost: all counts return to 0, and timers end."""
    door = Door()
    for number, what in steps:
        while len(door.wires) < 4:
            door.open(HOSTS[len(door.wires)])
        door.act(door.wires[number], what)
        known = {*door.edge.strangers._addresses}
        assert len(known) <= len(door.wires), "each is counted once at most"
    for wire in list(door.wires):
        door.act(wire, "lose")
    assert door.left() == {}
    door.gate.clock.advance(60)
    assert not door.gate.clock.getDelayedCalls()
