"""Notes in the store when nodes come and go."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from gateway.app import noderecords
from gateway.app.noderecords import NodeRecords
from gateway.errors import StoreError
from gateway.model import NodeRecord
from gateway.testing import result_of
from tests.app.harness import REMOTE, Gate


class CountingStore:
    """Keeps the records of nodes, and counts the writes."""

    def __init__(self) -> None:
        self.records: dict[str, NodeRecord] = {}
        self.writes = 0
        self.broken = False

    def update_node(self, node_id: str, change: Any) -> Deferred[NodeRecord]:
        if self.broken:
            return fail(StoreError("no"))
        self.writes += 1
        self.records[node_id] = change(self.records.get(node_id, NodeRecord(node_id=node_id)))
        return succeed(self.records[node_id])


@pytest.fixture
def store(gate: Gate) -> CountingStore:
    """Let a counting store keep the gateway's notes."""
    store = CountingStore()
    records: Any = gate.wiring.nodes.records
    records._store = store
    return store


def test_a_node_is_noted(gate: Gate) -> None:
    """When a node was there last, and what it said of itself, is stored."""
    node = gate.node(peer=REMOTE, display_name="Phone", device_family="iPhone")
    came_ms = gate.clock.now_ms()
    gate.clock.advance(100)
    node.leave()

    record = result_of(gate.store.get_node("n1"))
    assert record.last_connected_at_ms == record.last_seen_at_ms == came_ms
    assert record.last_disconnected_at_ms == gate.clock.now_ms()
    assert record.last_seen_reason == "connect"
    assert (record.display_name, record.platform, record.version) == ("Phone", "linux", "1.0")
    assert (record.device_family, record.remote_ip) == ("iPhone", REMOTE.address)


def test_a_node_that_flaps(gate: Gate, store: CountingStore) -> None:
    """A node that comes and goes all the time is written once a minute, with what holds then."""
    records: NodeRecords = gate.wiring.nodes.records
    records.startService()
    for _ in range(100):
        gate.node().leave()
    first = store.writes
    gate.clock.advance(60)
    second = store.writes
    gate.clock.pump([60.0] * 3)

    assert (first, second, store.writes) == (1, 2, 2)
    assert store.records["n1"].last_disconnected_at_ms is not None
    assert len(records) == 0
    result_of(records.stopService())


def test_the_stop_writes_what_waits(gate: Gate, store: CountingStore) -> None:
    """What waits to be written is written when the gateway stops, whether the beat runs or not."""
    gate.node().leave()
    result_of(gate.wiring.nodes.records.stopService())

    assert store.records["n1"].last_disconnected_at_ms is not None


def test_a_removed_node_does_not_come_back(gate: Gate, store: CountingStore) -> None:
    """The end of a connection does not bring back the record of a node that was removed meanwhile."""
    node = gate.node()
    store.records.clear()
    gate.clock.advance(60)
    node.leave()

    assert store.records["n1"] == NodeRecord(node_id="n1")


def test_notes_are_bounded(
    gate: Gate, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond so many nodes everything that waits is written at once."""
    monkeypatch.setattr(noderecords, "MAX_NOTED", 3)
    for number in range(4):
        gate.node(device_id=f"n{number}").leave()

    assert len(gate.wiring.nodes.records) == 1
    assert store.records["n2"].last_disconnected_at_ms is not None


def test_a_store_that_fails(
    gate: Gate,
    store: CountingStore,
    expected_failures: list[type[BaseException]],
    logged_failures: list[Any],
) -> None:
    """A note that the store refuses is logged, and disturbs nobody."""
    expected_failures.append(StoreError)
    store.broken = True
    node = gate.node()

    assert gate.client().ok("node.list")["nodes"][0]["connected"]
    assert len(logged_failures) == 1
    node.leave()
