"""The health snapshot."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from twisted.internet.defer import Deferred

from gateway.app.health import REFRESH_S
from gateway.core.looplag import LagWindow
from gateway.errors import StoreError
from gateway.testing import result_of
from tests.app.harness import READ, Gate, assert_fits

Gates = Callable[..., Gate]


def refresh(gate: Gate) -> None:
    """Make a snapshot."""
    result_of(Deferred.fromCoroutine(gate.services.health.refresh()))


def test_the_snapshot(gates: Gates) -> None:
    """The snapshot counts the sessions of every agent and shows the last used ones."""
    gate = gates(others=["other"])
    client = gate.client()
    for number in range(7):
        client.ok("sessions.create", {"key": f"s{number}"})
        gate.clock.advance(1)
    client.ok("sessions.create", {"key": "agent:other:x"})
    refresh(gate)

    health = client.ok("health")
    assert (health["ok"], health["ts"], health["defaultAgentId"]) == (
        True,
        gate.clock.now_ms(),
        "main",
    )
    assert health["sessions"]["count"] == 8
    assert [row["key"] for row in health["sessions"]["recent"]] == [
        "agent:other:x",
        *(f"agent:main:s{number}" for number in (6, 5, 4, 3)),
    ]
    assert health["sessions"]["recent"][1]["age"] == 1000
    main, other = health["agents"]
    assert (main["agentId"], main["isDefault"], main["sessions"]["count"]) == ("main", True, 7)
    assert (other["agentId"], other["isDefault"], other["sessions"]["count"]) == ("other", False, 1)
    assert len(main["sessions"]["recent"]) == 5


def test_everybody_gets_it_and_readers_get_the_sessions(gate: Gate) -> None:
    """Everybody is told that the gateway is well; session keys are for those who may read."""
    reader, node, bare = gate.client(3, scopes=READ), gate.node(), gate.client(scopes=())
    gate.client().ok("sessions.create", {"key": "whatsapp:direct:+49123"})
    before = bare.ok("health")
    refresh(gate)

    assert before == {}
    for client, shown in ((reader, 1), (node, 0), (bare, 0)):
        (broadcast,) = client.events("health")
        asked = client.ok("health")
        assert broadcast == asked
        assert len(asked["sessions"]["recent"]) == shown
        assert len(asked["agents"][0]["sessions"]["recent"]) == shown
        assert asked["sessions"]["count"] == 1
        (frame,) = client.frames
        assert frame["stateVersion"] == {"presence": 1, "health": 1}
        assert_fits(client.connection.protocol, "EventFrame", frame)


def test_it_fits_the_snapshot_of_a_hello(gate: Gate) -> None:
    """Both forms of the snapshot are such as version 4 has in hello-ok."""
    gate.client().ok("sessions.create", {"key": "s"})
    refresh(gate)
    health = gate.services.health

    for form in (health.snapshot, health.reduced):
        snapshot = {
            "presence": [],
            "health": msgspec.json.decode(form),
            "stateVersion": health.state_version(),
            "uptimeMs": 0,
        }
        assert_fits(4, "Snapshot", snapshot)


def test_it_has_the_state_of_the_loop_as_it_is_now(gate: Gate) -> None:
    """What is told of the event loop is in every answer from then on, though the rest is from before."""
    health = gate.services.health
    bare, reader = gate.client(scopes=()), gate.client(3, scopes=READ)
    state = LagWindow(0.05, processors=2).state(0.0, 0, 0.0, 0.0)
    health.tell_event_loop(state)
    unmade = bare.ok("health")
    refresh(gate)
    first = [client.ok("health") for client in (bare, reader)]
    health.tell_event_loop({**state, "delayMaxMs": 7.5})
    second = [client.ok("health") for client in (bare, reader)]

    assert unmade == {}
    assert [told["eventLoop"]["delayMaxMs"] for told in first] == [0.0, 0.0]
    assert [told["eventLoop"]["delayMaxMs"] for told in second] == [7.5, 7.5]
    assert [told | {"eventLoop": None} for told in first] == [
        told | {"eventLoop": None} for told in second
    ]
    assert (health.event_loop or {})["delayMaxMs"] == 7.5
    snapshot = {
        "presence": [],
        "health": second[1],
        "stateVersion": health.state_version(),
        "uptimeMs": 0,
    }
    assert_fits(4, "Snapshot", snapshot)


def test_it_is_made_anew_every_minute(gate: Gate) -> None:
    """The snapshot is made and sent by a beat; each raises the version."""
    client = gate.client(scopes=())
    (beat,) = [beat for beat in gate.wiring.beats if beat.name == "health"]
    beat.startService()
    gate.clock.pump([REFRESH_S] * 3)
    beat.stopService()

    assert len(client.events("health")) == gate.services.health.version == 3


def test_a_store_that_fails(gate: Gate, expected_failures: list[type[BaseException]]) -> None:
    """While the store fails the last snapshot stays, and the next beat tries again."""
    expected_failures.append(StoreError)
    refresh(gate)
    last = gate.services.health.snapshot
    (beat,) = [beat for beat in gate.wiring.beats if beat.name == "health"]
    beat.startService()
    gate.store.failing["find_sessions"] = StoreError("disk full")
    gate.clock.advance(REFRESH_S)
    kept = gate.services.health.snapshot
    gate.store.failing.clear()
    gate.clock.advance(REFRESH_S)
    beat.stopService()

    assert kept is last
    assert gate.services.health.version == 2


def test_duration(gate: Gate) -> None:
    """The snapshot says how long it took."""
    gate.store.hanging.add("find_sessions")
    making = Deferred.fromCoroutine(gate.services.health.refresh())
    gate.clock.advance(0.25)
    gate.store.release()
    result_of(making)

    assert gate.client().ok("health")["durationMs"] == 250


@pytest.mark.parametrize("protocol", [3, 4])
def test_ticks(gate: Gate, protocol: int) -> None:
    """Every connection gets a tick as often as hello-ok promises."""
    client, node = gate.client(protocol, scopes=()), gate.node(protocol)
    (beat,) = [beat for beat in gate.wiring.beats if beat.name == "tick"]
    beat.startService()
    gate.clock.pump([30, 30])
    beat.stopService()

    assert len(client.events("tick")) == len(node.events("tick")) == 2
    for payload in client.events("tick"):
        assert_fits(protocol, "TickEvent", payload)
