"""Copies for nodes: what a node hears of the sessions that it subscribed to."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app.hub import MAX_COPIED_SESSIONS
from tests.app.harness import Client, Gate
from tests.core.schemas import violations


def tell(node: Client, event: str, **payload: Any) -> dict[str, Any]:
    """Send a node event."""
    answer: dict[str, Any] = node.ok("node.event", {"event": event, "payload": payload})
    return answer


def copies(node: Client) -> list[dict[str, Any]]:
    """Return the frames of runs that a node was sent."""
    return [frame for frame in node.frames if frame["event"] in ("agent", "chat")]


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("key", ["main", " agent:main:main ", "Agent:Main:Main"])
def test_a_node_hears_of_the_session_it_subscribed_to(gate: Gate, protocol: int, key: str) -> None:
    """It gets the run as operators of its version see it, in order, without numbers, and no other run."""
    operator = gate.client(protocol)
    node = gate.node(protocol)
    other = gate.node(protocol, device_id="n2")
    assert tell(node, "chat.subscribe", sessionKey=key) == {"ok": True}

    operator.send("hello")
    gate.live().sink.text("Hel")
    gate.clock.advance(1)
    gate.live().sink.text("lo")
    gate.live().end()
    operator.send("elsewhere", key="other", run="r2")
    gate.live("r2").end()
    gate.turn()

    heard = copies(node)
    mine = [f for f in operator.frames if f["event"] in ("agent", "chat")]
    expected = [f for f in mine if f["payload"]["sessionKey"] == "agent:main:main"]
    assert [f["payload"] for f in heard] == [f["payload"] for f in expected]
    assert not any("seq" in frame for frame in heard)
    assert heard[-1]["payload"]["state"] == "final"
    for frame in heard:
        assert violations("EventFrame", protocol, frame) == []
    assert copies(other) == []


def test_copies_end(gate: Gate) -> None:
    """After chat.unsubscribe, or the end of the connection, nothing is copied, and nothing is kept."""
    operator = gate.client()
    node, gone = gate.node(), gate.node(device_id="n2")
    for each in (node, gone):
        tell(each, "chat.subscribe", sessionKey="main")
        tell(each, "chat.subscribe", sessionKey="other")
    assert tell(node, "chat.unsubscribe", sessionKey="agent:main:main") == {"ok": True}
    assert tell(node, "chat.unsubscribe", sessionKey="never") == {"ok": True}
    gone.leave()

    operator.send("hello")
    gate.live().end()
    gate.turn()

    assert copies(node) == copies(gone) == []
    node.leave()
    hub = gate.services.hub
    assert (hub._copied, hub._copies_of) == ({}, {})


def test_a_message_that_was_put_in_is_copied(gate: Gate) -> None:
    """What an operator puts into a transcript is told as it is to those who watch."""
    operator, node = gate.client(), gate.node()
    operator.send("hello")
    gate.live().end()
    gate.turn()
    tell(node, "chat.subscribe", sessionKey="main")

    operator.ok("chat.inject", {"sessionKey": "main", "message": "note"})

    assert [frame["payload"]["state"] for frame in copies(node)] == ["final"]


@pytest.mark.parametrize("key", [None, "", "  ", 7, "agent:", "k" * 1025])
@pytest.mark.parametrize("event", ["chat.subscribe", "chat.unsubscribe"])
def test_a_key_that_is_none(gate: Gate, event: str, key: object) -> None:
    """A key that names no session is said to be ignored."""
    answer = tell(gate.node(), event, sessionKey=key)

    assert answer == {"ok": True, "event": event, "handled": False, "reason": "invalid_payload"}
    assert violations("NodeEventResult", 4, answer) == []


def test_subscriptions_are_bounded(gate: Gate) -> None:
    """A node may subscribe to so many sessions and no more; one that it has costs nothing."""
    node = gate.node()
    for number in range(MAX_COPIED_SESSIONS):
        tell(node, "chat.subscribe", sessionKey=f"s{number}")
    tell(node, "chat.subscribe", sessionKey="s0")

    more = {"event": "chat.subscribe", "payload": {"sessionKey": "more"}}
    assert "at most 100" in node.refused("node.event", more)["message"]
    gate.services.hub.copy_to("nobody", "main")
    assert len(gate.services.hub._copied) == MAX_COPIED_SESSIONS


def test_a_node_that_fails_harms_nobody(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A connection that raises is logged, and the others get their copies and broadcasts."""
    expected_failures.append(OSError)
    operator, broken, node = gate.client(), gate.node(), gate.node(device_id="n2")
    for each in (broken, node):
        tell(each, "chat.subscribe", sessionKey="main")
    broken.connection.broken = OSError("gone")

    operator.send("hello")
    gate.live().end()
    gate.turn()

    assert copies(node)
    assert operator.ends() == (["final"], ["end"])
    broken.connection.broken = None
