"""Connected devices of role node."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.app.nodes import NodeListener, NodeSession
from gateway.model import Device, NodeSurface, Pairing
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

    def change(pairing: Pairing) -> Pairing:
        return replace(pairing, device=device)

    result_of(gate.store.update_pairing(device_id, change))


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
        "caps": [],
        "commands": [],
        "sessionHost": False,
        "nodePluginTools": [],
        "paired": True,
        "connected": True,
        "displayName": "Zoe's phone",
        "platform": "linux",
        "version": "1.0",
        "clientId": "node-host",
        "clientMode": "node",
        "approvedAtMs": 5,
        "lastSeenAtMs": gate.clock.now_ms(),
        "lastSeenReason": "connect",
        "lastConnectedAtMs": gate.clock.now_ms(),
        "connectedAtMs": gate.clock.now_ms(),
    }
    assert rows[0]["remoteIp"] == "192.0.2.7"
    assert rows[2]["displayName"] == "adam"


@pytest.mark.parametrize("older_first", [True, False])
def test_a_newer_connection_takes_the_place(gate: Gate, older_first: bool) -> None:
    """A newer connection of a node takes the older one's place, and the older one's end does not end it."""
    older = gate.node(device_id="n1", display_name="old", paired=False)
    newer = gate.node(device_id="n1", display_name="new", paired=False)
    shown = [row["displayName"] for row in listed(gate)]
    first, second = (older, newer) if older_first else (newer, older)
    first.leave()
    after = len(gate.services.nodes)
    second.leave()

    assert shown == ["new"]
    assert after == (1 if older_first else 0)
    assert len(gate.services.nodes) == 0
    assert listed(gate) == []


class Watching(NodeListener):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def node_joined(self, session: NodeSession) -> None:
        self.told.append(("joined", session.connection.conn_id))

    def node_left(self, session: NodeSession) -> None:
        self.told.append(("left", session.connection.conn_id))

    def node_changed(self, session: NodeSession) -> None:
        self.told.append(("changed", session.connection.conn_id))

    def connection_left(self, session: NodeSession) -> None:
        self.told.append(("closed", session.connection.conn_id))


def test_who_wants_to_know(gate: Gate) -> None:
    """Listeners hear of a node once when it comes and once when it has gone, and of each connection's end."""
    watching, nodes = Watching(), gate.services.nodes
    nodes.add_listener(NodeListener())
    nodes.add_listener(watching)
    older, newer = gate.node(), gate.node()
    first, second = older.connection.conn_id, newer.connection.conn_id
    older.leave()
    newer.leave()
    nodes.left(newer.connection)

    assert watching.told == [
        ("joined", first),
        ("joined", second),
        ("closed", first),
        ("closed", second),
        ("left", second),
    ]
    assert nodes.of_connection(first) is nodes.session("n1") is None


def test_what_is_live(gate: Gate) -> None:
    """Of an approved surface that is live what the node offers; only the newest connection can get it."""
    watching, nodes = Watching(), gate.services.nodes
    nodes.add_listener(watching)
    older = gate.node()
    node = gate.node(
        caps=["a", "b"],
        commands=["system.run", "system.which", "fs.read"],
        permissions={"x": True, "y": False, "z": True},
    )
    conn_id = node.connection.conn_id
    approved = NodeSurface(
        caps=("b", "c"),
        commands=("fs.read", "system.which", "system.notify"),
        permissions=(("x", False), ("y", True), ("w", True)),
    )
    nodes.set_live("n1", older.connection.conn_id, approved)
    nodes.set_live("zz", conn_id, approved)
    nothing = nodes.connected[0].live
    for _ in range(2):
        nodes.set_live("n1", conn_id, approved)

    assert nothing == NodeSurface()
    assert nodes.connected[0].live == NodeSurface(
        caps=("b",), commands=("system.which",), permissions=(("x", False), ("y", False))
    )
    assert watching.told.count(("changed", conn_id)) == 1


def test_version_3_is_live_at_once(gate: Gate) -> None:
    """What a node of version 3 declares and the policy allows needs no approval."""
    node = gate.node(3, commands=["system.run", "fs.read"])

    assert gate.client().ok("node.list")["nodes"][0]["commands"] == ["system.run"]
    node.leave()


def test_a_listener_that_raises(gate: Gate, expected_failures: list[type[BaseException]]) -> None:
    """A listener that raises is logged, and the others are told."""
    expected_failures.append(ZeroDivisionError)

    class Broken(NodeListener):
        def node_joined(self, session: NodeSession) -> None:
            raise ZeroDivisionError

    watching = Watching()
    gate.services.nodes.add_listener(Broken())
    gate.services.nodes.add_listener(watching)
    gate.node().leave()

    assert [what for what, _ in watching.told] == ["joined", "closed", "left"]
