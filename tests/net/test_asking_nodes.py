"""Nodes that are asked to do something, over connections."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app.operations import StopOrder
from tests.net.gate import DEVICE, Client, Gate, limited
from tests.net.wire import masked
from tests.test_drain import Stop

NODE: dict[str, Any] = {
    "client": {"id": "node-host", "version": "1.0", "platform": "linux", "mode": "node"},
    "role": "node",
    "scopes": [],
    "commands": ["system.notify"],
}

PARAMS = {"nodeId": DEVICE.device_id, "command": "system.notify"}


def join_node(gate: Gate, protocol: int = 4) -> Client:
    """Connect a node whose surface is live."""
    node = gate.join(protocol, device=DEVICE, **NODE)
    session = gate.wiring.services.nodes.session(DEVICE.device_id)
    assert session is not None
    gate.wiring.services.nodes.set_live(
        session.node_id, session.connection.conn_id, session.offered
    )
    node.received()
    return node


def ask(client: Client, key: str = "k") -> str:
    """Ask the node; return the id of the request."""
    return client.request("node.invoke", {**PARAMS, "idempotencyKey": key})


def events(client: Client, name: str) -> list[dict[str, Any]]:
    """Return the payloads of the events of one name that came since the last look."""
    return [m["payload"] for m in client.received() if m.get("event") == name]


def answers(client: Client, request: str) -> list[dict[str, Any]]:
    """Return the answers to a request that came since the last look."""
    return [m for m in client.received() if m.get("id") == request]


def test_a_command_and_its_answer(gate: Gate) -> None:
    """A command travels to the node and its answer back; events to a node have no number."""
    node, client = join_node(gate), gate.join()
    request = ask(client)
    [frame] = [m for m in node.received() if m.get("event") == "node.invoke.request"]
    result = {"id": frame["payload"]["id"], "nodeId": DEVICE.device_id, "ok": True}
    told = node.call("node.invoke.result", {**result, "payloadJSON": '{"shown":true}'})

    assert "seq" not in frame
    assert told["payload"] == {"ok": True}
    assert [m["payload"]["payload"] for m in answers(client, request)] == [{"shown": True}]


@pytest.mark.parametrize("protocol", [3, 4])
def test_the_connection_of_who_asks_is_lost(gate: Gate, protocol: int) -> None:
    """When the connection of who asks is lost the invocation ends, and a node of version 4 is told."""
    node, client = join_node(gate, protocol), gate.join()
    ask(client)
    [request] = events(node, "node.invoke.request")
    client.wire.lose()

    assert len(gate.wiring.services.invocations) == 0
    told = [{"invokeId": request["id"], "nodeId": DEVICE.device_id}]
    assert events(node, "node.invoke.cancel") == (told if protocol == 4 else [])


def test_the_connection_of_the_node_is_lost(gate: Gate) -> None:
    """When the connection of the node is lost everybody who waits is answered at once."""
    node, client = join_node(gate), gate.join()
    requests = [ask(client, key) for key in ("a", "b")]
    node.wire.lose()
    [first, second] = [m for m in client.received() if m.get("id") in requests]

    assert first["error"]["message"] == second["error"]["message"]
    assert first["error"]["message"] == "node disconnected (system.notify)"


def test_an_answer_of_100_megabytes(gate: Gate) -> None:
    """A frame that is larger than any may be ends the connection of the node, and what it was asked."""
    node, client = join_node(gate), gate.join()
    request = ask(client)
    node.wire.receive(masked(b"", length=100_000_000))
    closed = node.closed()
    node.wire.lose()

    assert (closed or (0, ""))[0] == 1009
    [answer] = answers(client, request)
    assert answer["error"]["details"]["nodeError"]["code"] == "NODE_DISCONNECTED"


def test_an_answer_that_is_too_large() -> None:
    """An answer beyond its limit fails the invocation, and the node's connection goes on."""
    gate = limited(node_result_bytes=1024)
    node, client = join_node(gate), gate.join()
    request = ask(client)
    [asked] = events(node, "node.invoke.request")
    result = {"id": asked["id"], "nodeId": DEVICE.device_id, "ok": True, "payload": "x" * 5000}
    refused = node.call("node.invoke.result", result)

    assert refused["error"]["details"]["code"] == "PAYLOAD_TOO_LARGE"
    [answer] = answers(client, request)
    assert answer["error"]["details"]["nodeError"]["code"] == "PAYLOAD_TOO_LARGE"
    assert node.call("health")["ok"]


@pytest.mark.parametrize("answered", [True, False])
def test_the_gateway_stops(gate: Gate, answered: bool) -> None:
    """The stop gives a node the grace to answer; who still waits then is told to ask again."""
    node, client = join_node(gate), gate.join()
    request = ask(client)
    [asked] = events(node, "node.invoke.request")
    stop = Stop(gate, order=StopOrder(grace_s=3.0, reason="test"))
    stop.until(0.5)
    refused = client.call("node.invoke", {**PARAMS, "idempotencyKey": "n"})
    if answered:
        node.call("node.invoke.result", {"id": asked["id"], "nodeId": DEVICE.device_id, "ok": True})
    stop.until(5.0)
    found = [m for m in client.received() if m.get("id") == request]

    assert refused["error"]["retryable"]
    assert [m["ok"] for m in found] == [answered]
    assert stop.ended_at is not None
    assert (stop.ended_at < 2.0) is answered
