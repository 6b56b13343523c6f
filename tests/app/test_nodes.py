"""Connected devices of role node."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.model import Device
from gateway.testing import result_of
from tests.app.harness import REMOTE, Gate


def pair(gate: Gate, device_id: str, name: str | None, roles: tuple[str, ...] = ("node",)) -> None:
    """Store a paired device."""
    device = Device(
        device_id=device_id,
        public_key="k",
        roles=roles,
        scopes=(),
        created_at_ms=0,
        approved_at_ms=5,
        approved_via="owner",
        display_name=name,
        platform="ios",
        client_id="openclaw-ios",
        client_mode="node",
        last_seen_at_ms=7,
    )
    result_of(gate.store.update_device(device_id, lambda current: device))


def listed(gate: Gate) -> list[dict[str, Any]]:
    """Return the nodes as an operator sees them."""
    nodes: list[dict[str, Any]] = gate.client().ok("node.list")["nodes"]
    return nodes


def test_paired_and_connected_nodes(gate: Gate) -> None:
    """Paired and connected nodes are one list, connected ones first, then by name."""
    pair(gate, "n1", "Zoe")
    pair(gate, "n2", "adam")
    pair(gate, "n3", None)
    pair(gate, "operator", "Ann", roles=("operator",))
    gate.node(device_id="n1", display_name="Zoe's phone", caps=["voice", "camera"])
    gate.node(device_id=None, client="node-host", peer=REMOTE)

    rows = listed(gate)

    assert [(row["nodeId"], row["connected"], row["paired"]) for row in rows] == [
        ("node-host", True, False),
        ("n1", True, True),
        ("n2", False, True),
        ("n3", False, True),
    ]
    assert rows[1] == {
        "nodeId": "n1",
        "caps": ["camera", "voice"],
        "commands": [],
        "paired": True,
        "connected": True,
        "displayName": "Zoe's phone",
        "platform": "linux",
        "version": "1.0",
        "clientId": "node-host",
        "clientMode": "node",
        "approvedAtMs": 5,
        "lastSeenAtMs": 7,
        "connectedAtMs": gate.clock.now_ms(),
    }
    assert rows[0]["remoteIp"] == "192.0.2.7"
    assert rows[2]["displayName"] == "adam"


@pytest.mark.parametrize("older_first", [True, False])
def test_a_newer_connection_takes_the_place(gate: Gate, older_first: bool) -> None:
    """A newer connection of a node takes the older one's place, and the older one's end does not end it."""
    older = gate.node(device_id="n1", display_name="old")
    newer = gate.node(device_id="n1", display_name="new")
    shown = [row["displayName"] for row in listed(gate)]
    first, second = (older, newer) if older_first else (newer, older)
    first.leave()
    after = len(gate.services.nodes)
    second.leave()

    assert shown == ["new"]
    assert after == (1 if older_first else 0)
    assert len(gate.services.nodes) == 0
    assert listed(gate) == []
