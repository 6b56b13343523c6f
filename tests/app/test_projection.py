"""Runs as clients see them: who gets which of their events."""

from __future__ import annotations

from typing import Any

from tests.app.harness import Gate


def test_tool_events(gate: Gate) -> None:
    """Tool events go to the connection that started the run, if it wants them, and as session.tool to followers; others get none."""  # noqa: E501
    starter = gate.client(caps=["tool-events"])
    capable = gate.client(caps=["tool-events"])
    follower = gate.client()
    outsider = gate.client(scopes=())
    follower.ok("sessions.subscribe")
    starter.ok("sessions.subscribe")
    starter.send("hello")

    gate.live().sink.emit("tool", {"phase": "start", "name": "ls"})

    def tools(client: Any) -> list[str]:
        agent = [e for e in client.events("agent") if e["stream"] == "tool"]
        return ["agent"] * len(agent) + ["session.tool"] * len(client.events("session.tool"))

    assert tools(starter) == ["agent"]
    assert tools(follower) == ["session.tool"]
    assert tools(capable) == tools(outsider) == []
    assert follower.events("session.tool")[0] | {"ts": 0, "sessionId": ""} == {
        "runId": "r1",
        "stream": "tool",
        "data": {"phase": "start", "name": "ls"},
        "sessionKey": "agent:main:main",
        "agentId": "main",
        "sessionId": "",
        "seq": 2,
        "ts": 0,
    }


def test_tools_of_a_client_that_does_not_ask(gate: Gate) -> None:
    """Who starts a run without the capability gets its tool events only as a follower."""
    starter = gate.client()
    starter.ok("sessions.subscribe")
    starter.send("hello")

    gate.live().sink.emit("tool", {"phase": "start"})

    assert [e["stream"] for e in starter.events("agent")] == ["lifecycle"]
    assert len(starter.events("session.tool")) == 1


def test_a_run_nobody_sees(gate: Gate) -> None:
    """Without a connection a run is driven and stored as with one."""
    client = gate.client(caps=["tool-events"])
    client.send("hello")
    client.leave()
    gate.live().sink.emit("tool", {"phase": "start"})
    gate.live().sink.text("answer")
    gate.live().end()

    assert gate.messages()[-1] == ("assistant", "answer")


def test_tools_nobody_wants(gate: Gate) -> None:
    """A tool event that nobody is to get is stored, and takes no connection's number."""
    client = gate.client()
    client.send("hello")
    gate.live().sink.emit("tool", {"phase": "start"})
    gate.live().end()

    assert [frame["seq"] for frame in client.frames] == [1, 2, 3]
