"""The approval of nodes, as it was recorded with gateways of both versions."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.access import Peer
from gateway.model import NodeSurface
from tests.app.harness import LOCAL, Client, Gate, vectors

RECORDED = vectors("node_approvals")
TIMES = {"requestId", "ts", "createdAtMs", "approvedAtMs", "lastSeenAtMs", "lastConnectedAtMs"}


def join(gate: Gate, protocol: int, node: dict[str, Any], peer: Peer, via: str) -> Client:
    """Connect a recorded node, whose device was paired."""
    client = node["client"]
    gate.pair(node["device"]["id"], via=via)
    return gate.node(
        protocol,
        device_id=node["device"]["id"],
        client=client["id"],
        mode=client["mode"],
        platform=client["platform"],
        version=client["version"],
        display_name=client["displayName"],
        device_family=client.get("deviceFamily"),
        peer=peer,
        surface=NodeSurface(
            caps=tuple(node["caps"]),
            commands=tuple(node["commands"]),
            permissions=tuple(sorted(node.get("permissions", {}).items())),
        ),
    )


def plain(shape: dict[str, Any]) -> dict[str, Any]:
    """Return a shape without ids and times, and with its commands in one order."""
    kept = {key: value for key, value in shape.items() if key not in TIMES}
    return kept | {"commands": sorted(shape["commands"])}


def test_a_local_node_of_version_4(gate: Gate) -> None:
    """What operators are told, what is listed, and what an approval answers is as recorded."""
    case = RECORDED["local"]["v4"]
    operator = gate.client()
    node = join(gate, 4, case["node"], LOCAL, "silent")

    (requested,) = operator.events("node.pair.requested")
    assert plain(requested) == plain(case["requested"])
    assert list(map(plain, operator.ok("node.pair.list")["pending"])) == list(
        map(plain, case["pending"])
    )
    approved = operator.ok("node.pair.approve", {"requestId": requested["requestId"]})
    theirs = plain(case["approved"]["node"])
    ours = {key: value for key, value in plain(approved["node"]).items() if key in theirs}
    assert ours == theirs
    assert set(case["approved"]["node"]) <= set(approved["node"])
    (resolved,) = operator.events("node.pair.resolved")
    assert {**resolved, "requestId": 0, "ts": 0} == {**case["resolved"], "requestId": 0, "ts": 0}
    assert node.events("node.pair.resolved") == [resolved]


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_node_of_another_machine(gate: Gate, protocol: int) -> None:
    """After its device was approved a node of 3 is live; one of 4 asks for what it declares."""
    case = RECORDED["remote"][f"v{protocol}"]
    operator = gate.client(protocol)
    join(gate, protocol, case["node"], Peer(case["ip"]), "owner")

    requested = operator.events("node.pair.requested")
    pending = operator.ok("node.pair.list")["pending"]
    (row,) = operator.ok("node.list")["nodes"]

    # Version 4's gateway had no canvas, and so left its commands out; here they are of the platform.
    wanted = [
        each | {"commands": [*each["commands"], "canvas.present"]} for each in case["pending"]
    ]
    assert list(map(plain, requested)) == list(map(plain, pending)) == list(map(plain, wanted))
    (theirs,) = case["nodes"]
    assert row["commands"] == theirs["commands"]
    assert row.get("approvalState") == theirs.get("approvalState")
    assert row["caps"] == theirs["caps"]
    assert row["remoteIp"] == theirs["remoteIp"]
