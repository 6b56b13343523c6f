"""Which sessions nodes may speak in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.app.nodeturns import NEW_SESSIONS_TTL_S
from tests.app.harness import Call, Client, Gate

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


@pytest.mark.parametrize("event", ["agent.request", "voice.transcript"])
@pytest.mark.parametrize("protocol", [3, 4])
def test_a_node_leaves_room_for_people(gates: Gates, event: str, protocol: int) -> None:
    """Few turns of a node wait in a session, and of all nodes not so many that nobody else gets in."""
    gate = gates(limits={"lane_depth": 4, "node_turns_waiting": 2})
    node, other, operator = gate.node(protocol), gate.node(device_id="n2"), gate.client()
    operator.send("first")

    def say(client: Client, number: int) -> Call:
        text = f"word {number}"
        said = {"message": text, "text": text, "sessionKey": "main"}
        return client.call("node.event", {"event": event, "payload": said})

    for number in range(2):
        assert say(node, number).payload["ok"]
    refused = say(node, 2).error
    assert say(other, 3).payload["ok"]
    crowded = say(other, 4).error

    assert refused == {
        "code": "UNAVAILABLE",
        "message": "too many messages of this node wait in this session",
        "details": {"reason": "session-busy", "waiting": 2},
        "retryable": True,
        "retryAfterMs": 1000,
    }
    assert crowded["message"] == "too many messages of nodes wait in this session"
    assert operator.send("mine", run="r2").payload["status"] == "started"
    gate.live().end()
    assert say(node, 2).payload["ok"]


def test_turns_at_once(gates: Gates) -> None:
    """Turns that come while the store still works on others are counted with them."""
    gate = gates(limits={"node_turns_waiting": 2})
    node = gate.node()
    gate.client().send("first")
    gate.store.hanging.add("accept_turn")
    asked = {"event": "agent.request", "payload": {"message": "hello", "sessionKey": "main"}}
    calls = [node.call("node.event", asked) for _ in range(5)]
    gate.store.release()

    assert [call.frame["ok"] for call in calls] == [True, True, False, False, False]


def test_other_sessions_are_not_crowded(gates: Gates) -> None:
    """A node that has filled its part of one session still gets into others."""
    gate = gates(limits={"node_turns_waiting": 1})
    node = gate.node()
    for key in ("main", "other"):
        for text in ("goes", "waits"):
            tell(node, "agent.request", message=text, sessionKey=key)

    assert len(gate.runs) == 4
