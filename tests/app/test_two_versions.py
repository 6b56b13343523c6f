"""Clients of both protocol versions beside each other."""

from __future__ import annotations

import pytest

from gateway.errors import BackendError, BackendErrorKind
from gateway.model import Usage
from tests.app.harness import AGENT_KEYS, Gate, assert_event_fits, assert_fits


@pytest.mark.parametrize("ending", ["result", "error", "abort"])
def test_each_in_its_own_version(gate: Gate, ending: str) -> None:
    """A client of version 3 and one of version 4 watch the same run, each in frames of its own version: every frame passes EventFrame or ResponseFrame, every chat payload ChatEvent, every agent payload AgentEvent plus the keys that `contracts.md` names."""  # noqa: E501
    clients = {v: gate.client(v, caps=["tool-events"]) for v in (3, 4)}
    calls = []
    for version, client in clients.items():
        client.ok("sessions.messages.subscribe", {"key": "main"})
        calls.append((version, client.call("sessions.subscribe", {"limit": 5})))
    calls.append((4, clients[4].send("hello")))
    params = {"message": "and then", "idempotencyKey": "r2", "sessionKey": "main"}
    calls.append((3, clients[3].call("agent", params)))
    for run in ("r1", "r2"):
        sink = gate.live(run).sink
        sink.text("some text")
        sink.emit("thinking", {"text": "hm", "delta": "hm"})
        sink.emit("tool", {"phase": "start", "name": "ls", "toolCallId": "t", "args": {}})
        sink.replace("other text")
        gate.clock.advance(0.2)
        sink.text(" and more")
        if ending == "result":
            usage = Usage(input_tokens=1, output_tokens=2)
            gate.live(run).end(usage=usage, stop_reason="length", provider="p", model="m")
        elif ending == "abort":
            calls.append((3, clients[3].call("chat.abort", {"sessionKey": "main", "runId": run})))
        else:
            detail = {"provider": "p", "model": "m", "httpStatus": 429}
            error = BackendError("slow down", kind=BackendErrorKind.RATE_LIMIT, detail=detail)
            gate.live(run).done.errback(error)
    calls.append((4, clients[4].call("agent.wait", {"runId": "r2"})))

    for version, call in calls:
        for frame in call.frames:
            assert_fits(version, "ResponseFrame", frame)
    for version, client in clients.items():
        seen = [event for event in client.frames if event["event"] in ("agent", "chat")]
        assert {event["payload"]["runId"] for event in seen} == {"r1", "r2"}
        for frame in client.frames:
            assert_event_fits(version, frame)
            if frame["event"] == "agent":
                assert AGENT_KEYS[version] - {"lane"} <= set(frame["payload"])
        assert [frame["seq"] for frame in client.frames] == list(range(1, len(client.frames) + 1))
    states = {"result": "final", "error": "error", "abort": "aborted"}
    for run in ("r1", "r2"):
        assert clients[3].ends(run) == clients[4].ends(run)
        assert clients[3].ends(run)[0] == [states[ending]]


def test_the_same_run_in_different_words(gate: Gate) -> None:
    """Both versions tell the same story; version 4 adds increments, owners and how it ended."""
    three, four = gate.client(3), gate.client(4)
    four.send("hello")
    gate.live().sink.text("Hi")
    gate.live().sink.replace("Hello")
    gate.live().end(usage=Usage(input_tokens=1, output_tokens=2))

    old, new = three.events("chat"), four.events("chat")
    assert [e["state"] for e in old] == [e["state"] for e in new] == ["delta", "delta", "final"]
    assert [e["message"] for e in old] == [e["message"] for e in new]
    assert [set(n) - set(o) for o, n in zip(old, new, strict=True)] == [
        {"agentId", "deltaText"},
        {"agentId", "deltaText", "replace"},
        {"agentId", "stopReason", "usage"},
    ]
    assert new[-1]["usage"] == {"input": 1, "output": 2, "totalTokens": 3}
    assert [e["seq"] for e in three.events("agent")] == [e["seq"] for e in four.events("agent")]
    assert [e["data"] for e in three.events("agent")] == [e["data"] for e in four.events("agent")]
