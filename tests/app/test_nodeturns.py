"""Which sessions nodes may speak in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.app.nodeturns import NEW_SESSIONS_TTL_S
from tests.app.harness import Client, Gate

Gates = Callable[..., Gate]


def tell(node: Client, event: str, **payload: Any) -> dict[str, Any]:
    """Send an event; return the answer."""
    answer: dict[str, Any] = node.ok("node.event", {"event": event, "payload": payload})
    return answer


def keys(gate: Gate) -> list[str]:
    """Return the keys of all sessions."""
    rows = gate.client().ok("sessions.list", {})["sessions"]
    return sorted(row["key"].removeprefix("agent:main:") for row in rows)


def test_a_node_makes_a_few_sessions(gates: Gates) -> None:
    """Of sessions that are not there a node may name so many in an hour, by whatever event."""
    gate = gates(limits={"node_new_sessions": 2})
    node = gate.node()
    tell(node, "agent.request", message="hello", sessionKey="a")
    tell(node, "voice.transcript", text="hello", sessionKey="b")
    refused = tell(node, "agent.request", message="hello", sessionKey="c")
    tell(node, "voice.transcript", text="hello", sessionKey="d")

    assert (refused["handled"], refused["reason"]) == (False, "too_many_sessions")
    assert keys(gate) == ["a", "b"]
    assert len(gate.services.reports.new_sessions) == 1
    gate.clock.advance(NEW_SESSIONS_TTL_S)
    tell(node, "agent.request", message="hello", sessionKey="c")
    assert keys(gate) == ["a", "b", "c"]


def test_sessions_that_are_always_open(gates: Gates) -> None:
    """What is there already, a main session and the node's own take none of its places."""
    gate = gates(limits={"node_new_sessions": 1})
    node, other = gate.node(), gate.node(device_id="n2")
    gate.client().send("hello", "there")
    for name in ("new", "new", "there", "main", None):
        assert tell(
            node, "agent.request", message="hello", **({"sessionKey": name} if name else {})
        )
    tell(other, "agent.request", message="hello", sessionKey="others")

    assert keys(gate) == ["main", "new", "node-n1", "others", "there"]
    assert "reason" in tell(node, "agent.request", message="hello", sessionKey="one more")


def test_what_a_node_says_of_commands_fills_nothing(gates: Gates) -> None:
    """A node of version 3 can't put aside what waits for others by telling of sessions that are none."""
    gate = gates(limits={"node_new_sessions": 2, "system_events_max": 5})
    gate.client().send("hello", "work")
    gate.live("r1").end()
    node, events = gate.node(3), gate.services.reports.system_events
    tell(node, "exec.started", sessionKey="work", command="ls")
    for number in range(20):
        tell(node, "exec.started", sessionKey=f"x{number}", command="ls")

    assert len(events) == 3
    assert "ls" in (events.take("agent:main:work") or "")
