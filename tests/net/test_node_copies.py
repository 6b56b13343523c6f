"""Copies for nodes over connections: a node that reads slowly loses nothing that matters."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.events import Event, TextDelta
from tests.net.gate import DEVICE, Client, Gate, limited

NODE: dict[str, Any] = {
    "client": {"id": "node-host", "version": "1.0", "platform": "linux", "mode": "node"},
    "role": "node",
    "scopes": [],
}
KEY = "agent:main:main"


def subscribed(gate: Gate, protocol: int = 4) -> Client:
    """Connect a node that has copies of the main session."""
    node = gate.join(protocol, device=DEVICE, **NODE)
    node.call("node.event", {"event": "chat.subscribe", "payload": {"sessionKey": "main"}})
    node.received()
    return node


def say(gate: Gate, text: str, offset: int) -> None:
    """Broadcast a delta of the session's text."""
    piece = TextDelta(
        "chat",
        lambda _protocol, piece: {"text": piece.text, "delta": piece.delta},
        key=("chat", "r1"),
        group="r1",
        run_seq=offset,
        ts_ms=0,
        text=text,
        offset=offset,
    )
    gate.wiring.services.hub.broadcast_session(piece, KEY)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_slow_node_gets_fewer_and_larger_deltas_and_the_end(gate: Gate, protocol: int) -> None:
    """While it reads nothing its copies are merged, and take the room of one; the end follows them."""
    node = subscribed(gate, protocol)
    node.server.pauseProducing()
    for length in range(1, 300):
        say(gate, "x" * length, length - 1)
    waiting = node.server.queued_bytes
    end = Event("chat", {"state": "final"}, group="r1")
    gate.wiring.services.hub.broadcast_session(end, KEY)
    node.server.resumeProducing()

    received = node.received()
    assert waiting < 2_000
    assert [frame["payload"] for frame in received] == [
        {"text": "x" * 299, "delta": "x" * 299},
        {"state": "final"},
    ]
    assert not any("seq" in frame for frame in received)


def test_a_node_that_never_reads_is_closed() -> None:
    """What must arrive is not thrown away: the connection ends when its outbox is full."""
    gate = limited(outbox_bytes=65_536)
    node, other = subscribed(gate), gate.join()
    node.server.pauseProducing()
    for _ in range(20):
        event = Event("agent", {"x": "y" * 10_000}, group="r1")
        gate.wiring.services.hub.broadcast_session(event, KEY)

    assert node.server.closing is not None
    assert node.server.closing.reason == "slow consumer"
    assert len([m for m in other.received() if m.get("event") == "agent"]) == 20
