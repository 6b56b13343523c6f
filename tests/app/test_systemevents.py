"""What agents are told with the next message of a session."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred

from gateway.app.systemevents import MAX_PER_SESSION, TTL_S
from gateway.core.systemevents import MAX_TEXT_CHARS
from gateway.errors import StoreError
from gateway.testing import result_of
from tests.app.harness import Gate

MAIN = "agent:main:main"
Gates = Callable[..., Gate]


def note(gate: Gate, text: str, key: str = MAIN, by: str = "") -> None:
    """Note something for the agent of a session."""
    events = gate.services.reports.system_events
    result_of(Deferred.fromCoroutine(events.note(key, text, "test", by=by)))


def test_people_see_it_in_the_transcript(gate: Gate) -> None:
    """A session that exists shows it as a message of the system; none comes to be by it."""
    note(gate, "too early")
    client = gate.client()
    listed = client.ok("sessions.list", {})["sessions"]
    client.send("hello")
    first = gate.live().request.text
    client.ok("sessions.subscribe")
    note(gate, "now")
    gate.live().end()
    client.send("again", run="r2")

    assert listed == []
    assert "- too early\n\nhello" in first
    assert gate.messages() == [("user", "hello"), ("system", "now"), ("user", "again")]
    shown = client.ok("chat.history", {"sessionKey": "main"})["messages"][1]
    assert shown["provenance"] == {"kind": "internal_system", "sourceTool": "test"}
    assert shown["kind"] == "system-event"
    assert next(e["message"]["role"] for e in client.events("session.message")) == "system"
    assert "- now\n\nagain" in gate.live("r2").request.text


def test_the_newest_texts_wait(gates: Gates) -> None:
    """Of each session the newest 20 wait, each bounded, the same one in a row once; of all, so many."""
    gate = gates(limits={"system_events_max": 2})
    events = gate.services.reports.system_events
    for number in range(MAX_PER_SESSION + 5):
        note(gate, f"t{number}")
        note(gate, f"t{number}")
    note(gate, "x" * (MAX_TEXT_CHARS + 100))
    told = events.take(MAIN)
    for key in ("a", "b", "c"):
        note(gate, "hello", key)

    assert told is not None
    assert told.count("\n- ") == MAX_PER_SESSION
    assert told.endswith("- " + "x" * MAX_TEXT_CHARS)
    assert events.take(MAIN) is None
    assert (len(events), events.take("a")) == (2, None)


def test_nobody_drives_out_what_others_noted(gate: Gate) -> None:
    """Who tells without end drives out its own oldest texts, not those of an operator or another node."""
    note(gate, "of an operator")
    note(gate, "of another node", by="n2")
    for number in range(3 * MAX_PER_SESSION):
        note(gate, f"flood {number};", by="n1")

    told = gate.services.reports.system_events.take(MAIN) or ""
    assert told.count("\n- ") == MAX_PER_SESSION
    assert "of an operator" in told
    assert "of another node" in told
    assert "flood 59;" in told
    assert "flood 41;" not in told


def test_a_node_that_reports_without_end(gate: Gate) -> None:
    """The reports of a node are counted as its own."""
    node = gate.node(3)
    note(gate, "of an operator")
    for number in range(2 * MAX_PER_SESSION):
        payload = {"sessionKey": "main", "command": "ls", "runId": str(number)}
        node.ok("node.event", {"event": "exec.started", "payload": payload})

    assert "of an operator" in (gate.services.reports.system_events.take(MAIN) or "")


def test_what_nobody_asks_for_is_forgotten(gate: Gate) -> None:
    """A text waits for a day at most."""
    note(gate, "hello")
    gate.clock.advance(TTL_S)

    assert gate.services.reports.system_events.sweep(gate.clock.seconds()) == 1
    assert gate.services.reports.system_events.take(MAIN) is None


def test_a_store_that_fails(gate: Gate) -> None:
    """Where the transcript can't be written whoever notes it learns that; the agent is told all the same."""
    gate.client().send("hello")
    gate.store.failing["append_messages"] = StoreError("disk full")

    with pytest.raises(StoreError):
        note(gate, "now")

    gate.store.failing.clear()
    assert "now" in (gate.services.reports.system_events.take(MAIN) or "")
    gate.live().end()


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("method", ["sessions.reset", "sessions.delete", "/new"])
def test_a_conversation_that_has_ended(gate: Gate, method: str, protocol: int) -> None:
    """What waits for a session that is reset or deleted is not told in its next conversation."""
    client, key = gate.client(protocol), "agent:main:work"
    client.send("hello", "work")
    gate.live().end()
    note(gate, "of then", key)
    if method == "/new":
        client.send("/new hello", "work", "r2")
    else:
        client.ok(method, {"key": "work"})
        client.send("hello", "work", "r2")

    assert "of then" not in gate.live("r2").request.text
    assert len(gate.services.reports.system_events) == 0
