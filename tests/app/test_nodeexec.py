"""What nodes tell of the commands that they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.app.nodeexec import FINISHED_TTL_S
from tests.app.asking import live_node
from tests.app.harness import Client, Gate

Gates = Callable[..., Gate]


def tell(node: Client, event: str, *, asked: bool = True, **payload: Any) -> dict[str, Any]:
    """Send an event of a command, by default of one that the node was asked to run."""
    if asked:
        session = payload.get("sessionKey", "")
        asked_for = session, node.gate.clock.seconds()
        node.gate.services.reports.commands.session_of_run = lambda run_id, node_id: asked_for
    answer: dict[str, Any] = node.ok("node.event", {"event": event, "payload": payload})
    return answer


def next_text(gate: Gate, key: str = "main") -> str:
    """Send a message, and return what its agent gets."""
    run = f"r{len(gate.backend.started)}"
    gate.client().send("hello", key, run)
    text: str = gate.live(run).request.text
    gate.live(run).end()
    return text


@pytest.mark.parametrize("protocol", [3, 4])
def test_an_agent_is_told_with_the_next_message(gate: Gate, protocol: int) -> None:
    """What a node tells stands before the next message of the session, once."""
    node = gate.node(protocol)
    tell(node, "exec.started", sessionKey="main", runId="x", command="ls")
    answer = tell(node, "exec.finished", sessionKey="main", runId="x", exitCode=0, output=" a\nb ")
    tell(node, "exec.denied", sessionKey="main", runId="y", reason="no")

    told = next_text(gate)

    assert answer == (
        {"ok": True} if protocol == 3 else {"ok": True, "event": "exec.finished", "handled": True}
    )
    assert told.endswith(
        "- Exec started (node=n1 id=x): ls\n"
        "- Exec finished (node=n1 id=x, code 0)\na b\n"
        "- Exec denied (node=n1 id=y, no)\n\nhello"
    )
    assert next_text(gate) == "hello"


def test_a_session_of_the_nodes_own(gate: Gate) -> None:
    """Without a session it is told in the node's own; one that can't be is not told at all."""
    node = gate.node()

    tell(node, "exec.started", runId="x", command="ls")
    unknown = tell(node, "exec.started", runId="x", sessionKey="agent:nobody:main")

    assert "Exec started" in next_text(gate, "node-n1")
    assert (unknown["handled"], unknown["reason"]) == (False, "unknown_session")


def test_an_end_is_told_once(gate: Gate) -> None:
    """The same end within ten minutes is told once in each session; without an id each is its own."""
    node, three = gate.node(), gate.node(3, device_id="n3")
    ends: dict[str, Any] = {"runId": "x", "exitCode": 1}
    told = {"ok": True, "event": "exec.finished", "handled": True}
    events = gate.services.reports.system_events

    assert tell(node, "exec.finished", **ends) == told
    assert tell(node, "exec.finished", **ends)["reason"] == "duplicate"
    assert tell(node, "exec.finished", sessionKey="main", **ends) == told
    for code in (1, 2):
        tell(three, "exec.finished", exitCode=code)
    assert (events.take("agent:main:node-n3") or "").count("Exec finished (node=n3, code") == 2
    gate.clock.advance(FINISHED_TTL_S)
    assert gate.services.reports.commands.sweep(gate.clock.seconds()) == 2
    assert tell(node, "exec.finished", **ends) == told
    assert len(gate.services.reports.commands) == 1


def test_ends_are_bounded(gates: Gates) -> None:
    """A node that reports without end fills a table of a fixed size."""
    gate = gates(limits={"exec_ends_max": 3})
    node = gate.node()
    for number in range(10):
        tell(node, "exec.finished", runId=f"x{number}", exitCode=1)

    assert len(gate.services.reports.commands) == 3


def test_a_silent_success(gate: Gate) -> None:
    """A command that succeeded and printed nothing is not worth a word; a timeout is."""
    node = gate.node()

    silent = tell(node, "exec.finished", runId="x", exitCode=0, output=" \n")
    timeout = tell(node, "exec.finished", runId="y", exitCode=0, timedOut=True)

    assert (silent["handled"], silent["reason"]) == (True, "silent")
    assert "reason" not in timeout


def test_commands_that_nobody_asked_for(gate: Gate) -> None:
    """Of a node of version 4 only commands are heard that it was asked to run; one of 3 can't say so."""
    gate.services.reports.commands.session_of_run = lambda run_id, node: (
        ("", 0.0) if (run_id, node) == ("x", "n1") else None
    )
    node, three = gate.node(), gate.node(3, device_id="n3")

    ours = tell(node, "exec.started", runId=" x ", asked=False)
    strange: list[dict[str, Any]] = [{"runId": "y"}, {}]
    others = [tell(node, "exec.started", asked=False, **payload) for payload in strange]
    tell(three, "exec.started", runId="z", sessionKey="main", asked=False)

    assert ours["handled"]
    assert {answer["reason"] for answer in others} == {"unmatched_exec_event"}
    assert "id=z" in next_text(gate)


def test_what_a_node_was_asked_to_run(gate: Gate) -> None:
    """A command that an operator has a node run is one that it is heard of."""
    node = live_node(gate, commands=("system.run",))
    params = {"command": ["ls"], "runId": "x"}
    ask = {"nodeId": "n1", "command": "system.run", "params": params, "idempotencyKey": "k"}
    call = gate.client().call("node.invoke", ask)

    assert tell(node, "exec.started", runId="x", asked=False)["handled"]
    assert not tell(node, "exec.started", runId="y", asked=False)["handled"]
    node.leave()
    assert call.error["code"] == "UNAVAILABLE"


def test_one_command_opens_one_session(gate: Gate) -> None:
    """What a node was asked to run is told where it was asked for, whatever session the node names."""
    gate.services.reports.commands.session_of_run = lambda run_id, node: ("work", 0.0)
    node, events = gate.node(), gate.services.reports.system_events

    for _ in range(3):
        tell(node, "exec.started", asked=False, sessionKey="main", runId="x", command="obey")

    assert events.take("agent:main:main") is None
    assert (events.take("agent:main:work") or "").count("obey") == 1


def test_a_command_of_a_conversation_that_has_ended(gate: Gate) -> None:
    """What was asked for before a session was reset is not told in its next conversation."""
    client, node = gate.client(), gate.node()
    client.send("hello", "work")
    gate.live().end()
    client.ok("sessions.reset", {"key": "work"})
    asked = {"old": gate.clock.seconds(), "new": gate.clock.seconds() + 1}
    gate.services.reports.commands.session_of_run = lambda run_id, node: ("work", asked[run_id])

    old, new = (
        tell(node, "exec.finished", asked=False, runId=run, exitCode=1) for run in ("old", "new")
    )

    assert (old["handled"], old["reason"]) == (False, "session_reset")
    assert new["handled"]
    assert "id=new" in (gate.services.reports.system_events.take("agent:main:work") or "")
