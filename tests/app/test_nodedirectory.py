"""What is known of nodes, as operators see it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.model import NodeRecord, NodeSurface, Pairing, SurfaceRequest
from gateway.testing import result_of
from tests.app.asking import live_node
from tests.app.harness import Gate
from tests.app.test_nodes import pair

SURFACE = NodeSurface(caps=("c",), commands=("b", "a"), permissions=(("p", True),))


def keep(gate: Gate, **facts: object) -> None:
    """Store a record of the node n1."""
    record = NodeRecord(node_id="n1", **facts)  # type: ignore[arg-type]
    result_of(gate.store.update_node("n1", lambda _current: record))


def test_describe(gate: Gate) -> None:
    """One node is described as it is listed, with the time; an unknown one is refused."""
    client = gate.client()
    node = live_node(gate, permissions={"x.y": True}, path_env="/bin", caps=["system"])
    described, listed = client.ok("node.describe", {"nodeId": "n1"}), client.ok("node.list")

    assert described == {**listed["nodes"][0], "ts": gate.clock.now_ms()}
    assert described["permissions"] == {"x.y": True}
    assert (described["pathEnv"], described["caps"]) == ("/bin", ["system"])
    assert client.refused("node.describe", {"nodeId": "zz"})["message"] == "unknown nodeId"
    node.leave()


def test_a_node_that_was_removed(gate: Gate) -> None:
    """What is left in the store of a node that is paired no more makes it no node."""
    keep(gate, last_seen_at_ms=5)

    assert gate.client().ok("node.list")["nodes"] == []
    assert gate.client().refused("node.describe", {"nodeId": "n1"})


@pytest.mark.parametrize("how", ["device", "surface", "legacy"])
def test_a_paired_node_that_is_away(gate: Gate, how: str) -> None:
    """A node is known by its device, or by the token of version 3's own pairing."""
    if how != "legacy":
        pair(gate, "n1", "Phone")
    if how == "surface":
        keep(gate, approved=SURFACE, approved_at_ms=3, last_disconnected_at_ms=4)
    if how == "legacy":
        keep(gate, legacy_token="d")
    row = gate.client().ok("node.describe", {"nodeId": "n1"})

    assert (row["paired"], row["connected"]) == (True, False)
    assert row["commands"] == (["a", "b"] if how == "surface" else [])
    assert row.get("approvalState") == ("approved" if how == "surface" else None)
    assert "legacy" not in str(row)
    assert "token" not in str(row).lower()


def test_a_surface_that_waits(gate: Gate) -> None:
    """What waits for approval is shown with its request as long as that lives; none of it is live."""
    now_ms = gate.clock.now_ms()
    request = SurfaceRequest(
        request_id="r", surface=SURFACE, requested_at_ms=now_ms, expires_at_ms=now_ms + 1000
    )
    keep(gate, request=request, legacy_token="d")
    client = gate.client()
    before = client.ok("node.describe", {"nodeId": "n1"})
    gate.clock.advance(1)
    after = client.ok("node.describe", {"nodeId": "n1"})

    assert before["approvalState"] == "pending-approval"
    assert before["pendingRequestId"] == "r"
    assert (before["pendingDeclaredCaps"], before["commands"]) == (["c"], [])
    assert before["pendingDeclaredCommands"] == ["b", "a"]
    assert "approvalState" not in after


def test_version_3_has_no_approval(gate: Gate) -> None:
    """The state of the approval says nothing of a node that needs none."""
    keep(gate, approved=SURFACE)
    node = gate.node(3)

    assert "approvalState" not in gate.client().ok("node.list")["nodes"][0]
    node.leave()


def test_rename(gate: Gate) -> None:
    """A name that an operator gave stays, whatever the node calls itself, also where it is connected by its client's id alone."""  # noqa: E501
    pair(gate, "n1", "Phone")
    client = gate.client(scopes=("operator.pairing", "operator.read"))
    answer = client.ok("node.rename", {"nodeId": "n1", "displayName": "  My \n phone "})
    node = gate.node(display_name="Other")
    shown = [client.ok("node.list")["nodes"][0]["displayName"]]
    gate.node(device_id=None, client="node-host")
    client.ok("node.rename", {"nodeId": "node-host", "displayName": "Host"})

    assert answer == {"nodeId": "n1", "displayName": "My phone"}
    assert shown == ["My phone"]
    assert client.ok("node.describe", {"nodeId": "node-host"})["displayName"] == "Host"
    node.leave()


def test_the_name_of_a_device(gate: Gate) -> None:
    """The name that an operator gave the device is shown unless the node has one of its own."""
    pair(gate, "n1", "Phone")

    def named(pairing: Pairing) -> Pairing:
        assert pairing.device is not None
        return replace(pairing, device=replace(pairing.device, name="Device's name"))

    result_of(gate.store.update_pairing("n1", named))

    assert gate.client().ok("node.list")["nodes"][0]["displayName"] == "Device's name"


@pytest.mark.parametrize("name", ["", " \n", "a\x1b[2J", "x" * 257])
def test_names_that_are_none(gate: Gate, name: str) -> None:
    """A name can be shown, and is not long."""
    pair(gate, "n1", "Phone")

    assert gate.client().refused("node.rename", {"nodeId": "n1", "displayName": name})
    assert gate.client().ok("node.list")["nodes"][0]["displayName"] == "Phone"


def test_renaming_nobody(gate: Gate) -> None:
    """There is nothing to rename where there is no node."""
    error = gate.client().refused("node.rename", {"nodeId": "zz", "displayName": "R"})

    assert error == {"code": "INVALID_REQUEST", "message": "unknown nodeId"}


def test_more_facts(gate: Gate) -> None:
    """Other parts of the gateway may tell more of a node."""
    node = gate.node()
    gate.services.node_directory.add_facts(lambda node_id: {"hostStats": {"of": node_id}})

    assert gate.client().ok("node.list")["nodes"][0]["hostStats"] == {"of": "n1"}
    node.leave()
