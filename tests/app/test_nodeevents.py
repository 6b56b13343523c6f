"""What nodes tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.app.context import Caller
from gateway.app.nodeevents import NodeEvents, handled
from gateway.errors import Unavailable
from gateway.limits import LimitsConfig
from gateway.model import Role
from gateway.testing import FakeClock, result_of
from tests.app.harness import Gate, assert_fits, make_caller, vectors

NODE = make_caller(role=Role.NODE)


async def echo(caller: Caller, payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Answer with the payload, or with nothing if it is empty."""
    return payload or None


def tell(
    events: NodeEvents, name: str, payload: Mapping[str, Any] | None, node: Caller = NODE
) -> dict[str, Any]:
    """Return the answer to an event."""
    return result_of(Deferred.fromCoroutine(events.handle(node, name, payload)))


def test_an_event_goes_to_its_handler() -> None:
    """What a handler returns is added to the answer; an event that nobody knows is said to be so."""
    events = NodeEvents(FakeClock(), LimitsConfig())
    events.add("echo", echo)

    assert tell(events, "echo", handled()) == {"ok": True, "event": "echo", "handled": True}
    assert tell(events, "echo", handled("so"))["reason"] == "so"
    assert tell(events, "echo", {}) == {"ok": True}
    unknown = {"ok": True, "event": "x" * 128, "handled": False, "reason": "unsupported_event"}
    assert tell(events, "x" * 200, {}) == unknown
    assert tell(events, "echo", None)["reason"] == "invalid_payload"


def test_nodes_of_version_3_are_told_nothing_more() -> None:
    """A node of protocol 3 is answered plain ok, whatever became of its event."""
    node = make_caller(protocol=3, role=Role.NODE)
    events = NodeEvents(FakeClock(), LimitsConfig())
    events.add("echo", echo)

    for name, payload in (("echo", handled()), ("echo", None), ("other", {})):
        assert tell(events, name, payload, node) == {"ok": True}


def test_an_event_has_one_handler() -> None:
    """Two handlers of one event are a mistake of the wiring."""
    events = NodeEvents(FakeClock(), LimitsConfig())
    events.add("echo", echo)

    with pytest.raises(ValueError, match="echo"):
        events.add("echo", echo)


@pytest.mark.parametrize("protocol", [3, 4])
def test_recorded_events(gate: Gate, protocol: int) -> None:
    """Real nodes' events are answered as each version's gateway does.

    But for notifications, of which nothing is made here, and which are said to be ignored.
    """
    node = gate.node(protocol)

    for row in vectors("node_events")[f"v{protocol}"]:
        answer = node.ok("node.event", row["params"])
        if "handled" in answer:
            assert_fits(4, "NodeEventResult", answer)
        if protocol == 4 and row["params"]["event"] == "notifications.changed":
            assert (answer["handled"], answer["reason"]) == (False, "not_used")
        else:
            assert answer == row["payload"]
    assert len(gate.runs) == 2


def test_a_node_that_tells_without_end() -> None:
    """A node that tells too much is asked to come again; others, and its own later ones, are heard."""
    clock = FakeClock()
    events = NodeEvents(clock, LimitsConfig(node_events_per_minute=2))
    other = make_caller(role=Role.NODE, device_id="n2")
    for _ in range(2):
        tell(events, "x", {})

    with pytest.raises(Unavailable, match="more than 2 events") as caught:
        tell(events, "x", {})
    assert (caught.value.retryable, caught.value.retry_after_ms) == (True, 30_000)
    assert tell(events, "x", {}, other)["ok"]
    clock.advance(30)
    assert tell(events, "x", {})["ok"]
    clock.advance(60)
    assert events.paces.sweep(clock.seconds()) == 2
