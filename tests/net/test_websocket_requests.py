"""An established connection: its requests and their answers, over wires in memory."""

from __future__ import annotations

import msgspec
import pytest
from twisted.logger import LogEvent

from gateway.core.events import Event
from tests.net.gate import DEVICE, Gate, closings, limited


@pytest.mark.parametrize(
    "payload", [b"{nope", b"\xff\xfe", b"[" * 5000, b'{"type":"req","id":"\\ud800","method":"x"}']
)
def test_what_is_not_json_is_answered_and_the_connection_stays(gate: Gate, payload: bytes) -> None:
    """After connect, what is not JSON is answered with id invalid, INVALID_REQUEST."""
    client = gate.join()
    client.raw(payload, opcode=2)
    (answer,) = client.received()
    assert (answer["id"], answer["error"]["code"]) == ("invalid", "INVALID_REQUEST")
    assert client.call("health")["ok"]


def test_what_a_frame_was_is_remembered_cut(gate: Gate) -> None:
    """Of the last frame at most 128 characters of type, method and id are kept, also if it was refused."""
    client = gate.join()
    client.send(type="req", id="i" * 100_000, method="m" * 100_000)
    assert client.server.last_frame == ("req", "m" * 128, "i" * 128)
    client.send(type="request", id="i" * 1000, method="bad")
    assert client.server.last_frame == ("request", "bad", "i" * 128)


def test_eleven_calls_of_another_role_close(gate: Gate, log: list[LogEvent]) -> None:
    """The eleventh wrong-role request in a row is answered, then closes with 1008."""
    client = gate.join()
    for _ in range(10):
        client.call("node.event", {"event": "x"})
    assert client.call("health")["ok"]
    for _ in range(10):
        answer = client.call("node.event", {"event": "x"})
        assert answer["error"]["message"] == "unauthorized role: operator"
    client.request("node.event", {"event": "x"})
    frames = client.frames()
    assert [opcode for opcode, _ in frames] == [1, 8]
    assert frames[1][1][2:] == b"repeated unauthorized calls"
    client.wire.lose()
    assert closings(log)[0]["cause"] == "repeated-unauthorized-requests"


def test_a_node_sees_only_what_nodes_may_see(gate: Gate) -> None:
    """A node gets tick, health and shutdown, and none of agent, chat or presence."""
    node = gate.open()
    client_info = {"id": "node-host", "version": "1", "platform": "linux", "mode": "node"}
    hello = node.connect(device=DEVICE, client=client_info, role="node", scopes=[])
    assert hello["ok"], hello
    hub = gate.wiring.services.hub
    for name in ("agent", "chat", "presence", "health", "tick", "shutdown"):
        hub.broadcast(Event(name, {"x": 1}))
    assert [m["event"] for m in node.received()] == ["health", "tick", "shutdown"]


def test_a_busy_connection_is_told_to_wait() -> None:
    """More requests at once than the limit are answered UNAVAILABLE, retryable."""
    gate = limited(request_queue=2)
    client = gate.join()
    for _ in range(3):
        client.request("agent.wait", {"runId": "none"})
    (answer,) = client.received()
    assert answer["error"]["code"] == "UNAVAILABLE"
    assert answer["error"]["retryable"] is True


def test_what_waits_ends_with_its_connection(gate: Gate) -> None:
    """A call that only waits is cancelled when its connection is gone, and leaves nothing behind."""
    client = gate.join()
    client.request("agent.wait", {"runId": "none"})
    client.wire.lose()
    assert len(gate.wiring.services.runs._awaited) == 0
    assert not client.server._running


def test_a_whole_turn_streams(gate: Gate) -> None:
    """A message is answered by agent and chat events whose last carry the whole text, byte for byte."""
    client = gate.join()
    client.request(
        "chat.send", {"sessionKey": "main", "message": "ab  cd\n", "idempotencyKey": "k1"}
    )
    gate.clock.pump([0.01] * 100)
    received = client.received()
    (started,) = [m for m in received if m["type"] == "res"]
    assert started["payload"]["runId"] == "k1"
    assert started["payload"]["status"] == "started"
    events = [m for m in received if m["type"] == "event"]
    chat = [m["payload"] for m in events if m["event"] == "chat"]
    assert [m["seq"] for m in events] == list(range(1, len(events) + 1))
    assert "".join(c.get("deltaText", "") for c in chat) == "ab  cd\n"
    assert chat[-1]["state"] == "final"
    assert chat[-1]["message"]["content"] == [{"type": "text", "text": "ab  cd\n"}]
    assert [c["state"] for c in chat].count("final") == 1


def test_a_request_that_outlives_its_connection(gate: Gate) -> None:
    """A call that does more than wait goes on when its client is gone, and its answer is dropped."""
    client = gate.join()
    client.request("chat.send", {"sessionKey": "main", "message": "hi", "idempotencyKey": "k"})
    written = len(client.wire.sent)
    client.wire.lose()
    gate.clock.pump([0.01] * 100)
    assert len(client.wire.sent) == written
    assert gate.wiring.services.runs.window.claims.get("k") is not None


def test_raw_payloads_are_copied_as_they_are(gate: Gate) -> None:
    """The cached health snapshot is sent byte for byte."""
    client = gate.join()
    gate.wiring.services.health.snapshot = msgspec.Raw(b'{"ok":true,"marker":1}')
    assert client.call("health")["payload"] == {"ok": True, "marker": 1}
