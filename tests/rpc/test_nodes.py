"""What devices tell."""

from __future__ import annotations

from tests.app.harness import Gate


def test_nested_payloads_of_nodes(gate: Gate) -> None:
    """A payload of a node that is nested beyond reason is no payload."""
    node = gate.node()
    params = {"event": "voice.transcript", "payloadJSON": "[" * 5000}

    assert node.ok("node.event", params)["reason"] == "invalid_payload"
