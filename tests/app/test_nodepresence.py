"""What nodes say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.errors import StoreError
from gateway.testing import result_of
from tests.app.harness import READ, Client, Gate, assert_fits

Gates = Callable[..., Gate]
STATS = {"cpuCount": 4, "memoryTotalBytes": 1000, "memoryFreeBytes": 10, "loadAverage": [0.5, 1, 2]}


def tell(node: Client, event: str, **payload: Any) -> dict[str, Any]:
    """Send an event; return the answer."""
    answer: dict[str, Any] = node.ok("node.event", {"event": event, "payload": payload})
    return answer


def test_a_node_that_lives(gate: Gate) -> None:
    """A paired node is stored as seen with why, at most once a minute; it is told what became of it."""
    node = gate.node()
    began, written = gate.clock.now_ms(), gate.store.calls.count("update_node")

    answers = [tell(node, "node.presence.alive", trigger="silent_push") for _ in range(2)]

    record = result_of(gate.store.get_node("n1"))
    assert (record.last_seen_at_ms, record.last_seen_reason) == (began, "silent_push")
    assert answers == [
        {"ok": True, "event": "node.presence.alive", "handled": True, "reason": reason}
        for reason in ("persisted", "throttled")
    ]
    assert gate.store.calls.count("update_node") == written + 1
    gate.clock.advance(60)
    tell(node, "node.presence.alive", trigger="whatever")
    record = result_of(gate.store.get_node("n1"))
    assert (record.last_seen_at_ms, record.last_seen_reason) == (began + 60_000, "background")
    gate.clock.advance(60)
    assert gate.services.reports.presence.alive_at.sweep(gate.clock.seconds()) == 1


def test_who_is_not_stored(gate: Gate) -> None:
    """Nodes that are not paired, or have no device, are not stored, and are told so."""
    node, deviceless = gate.node(paired=False), gate.node(device_id=None)
    written = gate.store.calls.count("update_node")
    unpaired = tell(node, "node.presence.alive", trigger="connect")
    nobody = tell(deviceless, "node.presence.alive", trigger="connect")

    assert (unpaired["handled"], unpaired["reason"]) == (False, "not_paired")
    assert (nobody["handled"], nobody["reason"]) == (False, "no_device")
    assert gate.store.calls.count("update_node") == written


def test_a_store_that_fails(gate: Gate, expected_failures: list[type[BaseException]]) -> None:
    """Where the store fails the node is refused, and its next try is not throttled."""
    expected_failures.append(StoreError)
    node = gate.node()
    gate.store.failing["update_node"] = StoreError("disk full")
    event = {"event": "node.presence.alive", "payload": {"trigger": "connect"}}
    assert node.refused("node.event", event)["retryable"]
    gate.store.failing.clear()

    assert node.ok("node.event", event)["reason"] == "persisted"


def test_numbers_of_a_machine(gate: Gate) -> None:
    """Numbers are kept for the node's row, told to readers of version 4, and old after five minutes."""
    reader, three, nobody = gate.client(scopes=READ), gate.client(3), gate.client(scopes=())
    node = gate.node()

    first = tell(node, "node.host.stats", **STATS)
    gate.clock.advance(1)
    second = tell(node, "node.host.stats", **{**STATS, "memoryFreeBytes": 5})

    facts = msgspec.json.decode(msgspec.json.encode(gate.services.reports.presence.facts("n1")))
    assert (first["reason"], second["reason"]) == ("updated", "throttled")
    (row,) = [row for row in reader.ok("node.list", {})["nodes"] if row["nodeId"] == "n1"]
    assert row["hostStats"] == facts["hostStats"]
    assert facts["hostStats"] == {**STATS, "memoryFreeBytes": 5, "updatedAtMs": gate.clock.now_ms()}
    (event,) = reader.events("node.hostStats")
    assert event["nodeId"] == "n1"
    stamp = event["hostStats"].pop("updatedAtMs")
    assert stamp == gate.clock.now_ms() - 1000
    assert event["hostStats"].pop("loadAverage") == [
        0.5,
        1,
        2,
    ]  # which has no schema of today's draft
    assert_fits(4, "NodeHostStatsPayload", event["hostStats"])
    assert three.frames == nobody.frames == node.frames == []
    gate.clock.advance(5)
    tell(node, "node.host.stats", **STATS)
    assert len(reader.events("node.hostStats")) == 2
    gate.clock.advance(301)
    assert gate.services.reports.presence.facts("n1") == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpuCount": 0},
        {"cpuCount": "4"},
        {"memoryFreeBytes": -1},
        {"memoryTotalBytes": 2**60},
        {"loadAverage": [1, 2]},
        {"loadAverage": [1, 2, -3]},
        {"diskTotalBytes": None},
    ],
)
def test_numbers_that_are_none(gate: Gate, wrong: dict[str, Any]) -> None:
    """What is out of bounds is neither kept nor told."""
    reader = gate.client()

    answer = tell(gate.node(), "node.host.stats", **{**STATS, **wrong})

    assert (answer["handled"], answer["reason"]) == (False, "invalid_payload")
    assert reader.frames == []
    assert gate.services.reports.presence.facts("n1") == {}


def test_numbers_are_bounded(gates: Gates) -> None:
    """Of as many nodes as the limit says numbers are kept."""
    gate = gates(limits={"node_facts_max": 2})
    for number in range(5):
        tell(gate.node(device_id=f"n{number}"), "node.host.stats", **STATS)

    assert len(gate.services.reports.presence.stats) == 2


def test_somebody_at_a_node(gate: Gate) -> None:
    """Readers of version 4 are told since when nobody is at a node, or that this is not known any more."""
    reader, three = gate.client(scopes=READ), gate.client(3)
    node = gate.node()

    answers = [
        tell(node, "node.presence.activity", **payload)
        for payload in ({"idleSeconds": 7, "source": "app"}, {"action": "clear"})
    ]

    now_ms = gate.clock.now_ms()
    assert [answer["reason"] for answer in answers] == ["updated", "updated"]
    assert reader.events("node.presence") == [
        {"nodeId": "n1", "lastActiveAtMs": active, "presenceUpdatedAtMs": now_ms}
        for active in (now_ms - 7000, None)
    ]
    assert three.frames == []


@pytest.mark.parametrize(
    "payload", [{}, {"idleSeconds": -1}, {"idleSeconds": 10**9}, {"action": "x"}, {"source": "app"}]
)
def test_activity_that_is_none(gate: Gate, payload: dict[str, Any]) -> None:
    """What does not fit is told to nobody."""
    reader = gate.client()

    answer = tell(gate.node(), "node.presence.activity", **payload)

    assert (answer["handled"], answer["reason"]) == (False, "invalid_payload")
    assert reader.frames == []


def test_signs_of_life_while_the_store_works(gate: Gate) -> None:
    """What comes while the first is being stored is not stored besides."""
    node = gate.node()
    written = gate.store.calls.count("update_node")
    gate.store.hanging.add("get_pairing")
    event = {"event": "node.presence.alive", "payload": {"trigger": "connect"}}
    calls = [node.call("node.event", event) for _ in range(5)]
    gate.store.release()

    assert [call.payload["reason"] for call in calls] == ["persisted", *["throttled"] * 4]
    assert gate.store.calls.count("update_node") == written + 1
