"""Writes to the records of nodes, and removals that come between."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from gateway.app.pairednodes import PairedNodes
from gateway.model import NodeRecord
from gateway.testing import result_of
from tests.app.harness import Gate


def seen(record: NodeRecord) -> NodeRecord:
    """Change a record."""
    return replace(record, last_seen_at_ms=1)


def start(gate: Gate, node_id: str = "n1") -> Deferred[bool]:
    """Change the record of a node."""
    paired = PairedNodes(gate.store, gate.services.revocations)
    return Deferred.fromCoroutine(paired.update(node_id, seen))


def kept(gate: Gate) -> NodeRecord:
    """Return what is kept of the node."""
    record: NodeRecord = result_of(gate.store.get_node("n1"))
    return record


def test_a_paired_node_is_written_and_no_other(gate: Gate) -> None:
    """What is no paired node gets no record."""
    gate.node()
    assert result_of(start(gate))
    assert kept(gate).last_seen_at_ms == 1
    assert not result_of(start(gate, "nobody"))
    assert result_of(gate.store.get_node("nobody")) == NodeRecord(node_id="nobody")


@pytest.mark.parametrize("method", ["device.pair.remove", "node.pair.remove"])
def test_a_write_that_comes_after_the_removal(gate: Gate, method: str) -> None:
    """It was paired when it was asked about, and is not when the record is written."""
    operator, _ = gate.client(), gate.node()
    gate.store.hanging.add("update_node")
    writing = start(gate)
    gate.store.hanging.clear()
    params = {"deviceId": "n1"} if method.startswith("device") else {"nodeId": "n1"}
    operator.ok(method, params)
    left = kept(gate)
    gate.store.release()

    assert not result_of(writing)
    assert kept(gate) == left
    assert left.last_seen_at_ms is None


@pytest.mark.parametrize("method", ["device.pair.remove", "node.pair.remove"])
def test_an_open_connection_of_a_removed_node(gate: Gate, method: str) -> None:
    """Whatever it still says, and its end, leave nothing of it; nothing waits for it any more."""
    operator, node = gate.client(), gate.node(3)
    node.leave()
    node = gate.node(3)  # within the minute: that it came waits to be written
    params: dict[str, Any] = {"nodeId": "n1", "type": "status.request"}
    operator.ok("node.pending.enqueue", params)
    operator.ok(method, {"deviceId": "n1"} if method.startswith("device") else {"nodeId": "n1"})
    left = kept(gate)

    push = {"token": "a1b2", "topic": "app"}
    for event, payload in (
        ("node.presence.alive", {"trigger": "connect"}),
        ("push.apns.register", push),
    ):
        node.ok("node.event", {"event": event, "payload": payload})
    operator.refused("node.pending.enqueue", params)
    node.leave()
    result_of(gate.wiring.nodes.records.flush())

    assert len(gate.services.node_pending) == 0
    assert kept(gate) == left
    assert left == NodeRecord(node_id="n1", generation=left.generation)
