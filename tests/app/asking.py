"""Nodes that can be asked to do something, and clients that ask them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.app.harness import Call, Client, Gate

COMMANDS = ("system.notify", "system.run", "system.which")
EXEC_APPROVALS = ("system.execApprovals.get", "system.execApprovals.set")
"""What nodes that run programs declare beside."""


def live_node(
    gate: Gate, protocol: int = 4, *, commands: Iterable[str] = COMMANDS, **who: Any
) -> Client:
    """Connect a node whose whole surface is live."""
    node = gate.node(protocol, commands=commands, **who)
    session = gate.services.nodes.of_connection(node.connection.conn_id)
    assert session is not None
    session.approved = True
    gate.services.nodes.set_live(session.node_id, node.connection.conn_id, session.offered)
    return node


def invoke(client: Client, command: str = "system.notify", key: str = "k1", **more: Any) -> Call:
    """Ask the node n1."""
    params = {"nodeId": "n1", "command": command, "idempotencyKey": key, **more}
    return client.call("node.invoke", params)


def asked(node: Client) -> list[dict[str, Any]]:
    """Return what a node was asked."""
    return node.events("node.invoke.request")


def cancelled(node: Client) -> list[str]:
    """Return the invocations that a node was told to leave."""
    return [payload["invokeId"] for payload in node.events("node.invoke.cancel")]


def answer(node: Client, which: int = -1, **result: Any) -> dict[str, Any]:
    """Let a node answer one of the things that it was asked."""
    payload = {"id": asked(node)[which]["id"], "nodeId": "n1", "ok": True, **result}
    answered: dict[str, Any] = node.ok("node.invoke.result", payload)
    return answered
