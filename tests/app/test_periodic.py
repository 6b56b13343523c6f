"""Beats on the clock, and the pruner among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.app.periodic import Measured, Periodic, Pruner
from gateway.core.registry import Registry
from gateway.metrics import Metrics
from gateway.testing import FakeClock, result_of
from tests.app.harness import Client, Gate


def speak(node: Client, key: str, event_id: str | None = None, text: str = "yes") -> Any:
    """Send a transcript."""
    payload = {"text": text, "sessionKey": key}
    if event_id is not None:
        payload["eventId"] = event_id
    return node.call("node.event", {"event": "voice.transcript", "payload": payload})


def pruner_of(gate: Gate) -> Pruner:
    """Return the running pruner of a gateway."""
    pruner = Pruner(gate.clock, gate.wiring.registries)
    pruner.startService()
    return pruner


def test_the_pruner_removes_all_that_expired(gate: Gate) -> None:
    """The pruner removes all expired transcripts even when the map is below its maximum."""
    node = gate.node()
    pruner = pruner_of(gate)
    for number in range(8):
        speak(node, f"s{number}", f"e{number}")
    gate.clock.advance(290)
    for number in range(3):
        speak(node, f"t{number}", f"f{number}")
    dedupe = gate.services.voice.dedupe
    before = (dedupe.sessions, dedupe.identities)

    gate.clock.advance(60)

    assert before == (3, 11)
    assert (dedupe.sessions, dedupe.identities) == (0, 3)
    pruner.stopService()
    assert gate.runs.busy("agent:main:s0")


def test_sessions_with_a_run_are_kept(gates: Callable[..., Gate]) -> None:
    """Where there are too many transcripts the oldest go first, those of sessions with a run last."""
    gate = gates(limits={"voice_sessions_max": 3, "voice_identities_max": 3})
    node = gate.node()
    speak(node, "busy", "e0")
    for number in range(4):
        speak(node, f"idle{number}", f"e{number + 1}")
        next(reversed(gate.backend.live.values())).end()
    gate.services.voice.sweep(gate.clock.seconds())

    assert gate.runs.busy("agent:main:busy")
    kept = ["agent:main:busy", "agent:main:idle2", "agent:main:idle3"]
    assert list(gate.services.voice.dedupe._last) == kept
    assert [key for key, _ in gate.services.voice.dedupe._identities] == kept


def test_a_registry_that_raises(
    expected_failures: list[type[BaseException]], logged_failures: list[Any]
) -> None:
    """A registry whose sweep raises is logged, the others are swept, and so it is in the next pass."""
    expected_failures.append(ZeroDivisionError)
    clock = FakeClock()

    class Broken:
        name = "broken"

        def sweep(self, now: float) -> int:
            raise ZeroDivisionError

    registry: Registry[int] = Registry("good", maximum=10, ttl_s=1)
    pruner = Pruner(clock, [Broken(), registry], interval_s=60)
    pruner.startService()
    for _ in range(2):
        registry.put("k", 1, clock.seconds())
        clock.advance(60)
        assert len(registry) == 0

    assert len(logged_failures) == 2
    pruner.stopService()
    assert clock.getDelayedCalls() == []


def test_a_pass_that_raises(
    expected_failures: list[type[BaseException]], logged_failures: list[Any]
) -> None:
    """A pass that raises, or whose Deferred fails, is logged, and the next one still runs."""
    expected_failures.append(ZeroDivisionError)
    clock = FakeClock()
    passes: list[float] = []

    def work() -> Any:
        passes.append(clock.seconds())
        if len(passes) == 1:
            raise ZeroDivisionError
        failing: Deferred[None] = Deferred()
        failing.errback(ZeroDivisionError())
        return failing

    beat = Periodic("beat", clock, 60, work)
    beat.startService()
    clock.pump([60, 60, 60])

    assert passes == [60, 120, 180]
    assert len(logged_failures) == 3
    beat.stopService()
    clock.advance(60)
    assert len(passes) == 3


def test_a_slow_pass_skips_beats() -> None:
    """While a pass goes on no other begins; the next comes with the beat after it."""
    clock = FakeClock()
    passes: list[Deferred[None]] = []

    def work() -> Deferred[None]:
        passes.append(Deferred())
        return passes[-1]

    beat = Periodic("beat", clock, 60, work)
    beat.startService()
    clock.pump([60, 60, 60])
    during = len(passes)
    passes[0].callback(None)
    clock.advance(60)

    assert (during, len(passes)) == (1, 2)
    beat.stopService()


def test_stopping_during_a_pass() -> None:
    """A beat has stopped when the pass that is under way is over; no other follows it."""
    clock = FakeClock()
    passing: Deferred[None] = Deferred()
    beat = Periodic("beat", clock, 60, lambda: passing)
    beat.startService()
    clock.advance(60)
    stopped = beat.stopService()
    assert stopped is not None
    before = stopped.called
    passing.callback(None)

    assert not before
    assert stopped.called
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("started", [True, False])
def test_stopping_twice(started: bool) -> None:
    """A beat can be stopped whether it runs or not."""
    clock = FakeClock()
    beat = Periodic("beat", clock, 60, lambda: None)
    if started:
        beat.startService()
    beat.stopService()
    beat.stopService()

    assert clock.getDelayedCalls() == []


def test_sweeps_are_measured() -> None:
    """What a sweep removes and leaves is counted by the registry's name."""
    metrics = Metrics()
    registry: Registry[int] = Registry("things", maximum=10, ttl_s=1)
    registry.put("old", 1, 0)
    registry.put("new", 1, 5)

    assert Measured(registry, metrics).sweep(5) == 1
    text = metrics.render()
    assert b'gateway_registry_size{registry="things"} 1.0' in text
    assert b'gateway_registry_swept_total{registry="things"} 1.0' in text


REGISTRIES = [
    "voice",
    "system-events",
    "exec-finished",
    "node-alive",
    "node-host-stats",
    "node-stats-told",
    "node-new-sessions",
    "node-event-paces",
    "auth_failures",
    "idempotency",
    "presence",
    "follows",
    "approvals",
    "approvals-ended",
    "exec-policy",
    "node-invocations",
    "node-answers",
    "node-runs",
    "models-troubled",
    "node-pending",
    "surfaces",
    "setup-codes",
    "scope-upgrades",
    "connections-closed",
    "connections-refused",
]


def test_the_registries_of_a_gateway(gate: Gate) -> None:
    """Every bounded registry of a gateway is swept."""
    names = sorted(registry.name for registry in gate.wiring.registries)
    assert names == sorted(REGISTRIES)


def test_a_stop_waits_for_the_pass_that_is_under_way() -> None:
    """The Deferred of stopService fires when a pass that takes time is over."""
    clock, work = FakeClock(), Deferred[None]()
    periodic = Periodic("slow", clock, 1.0, lambda: work)
    periodic.startService()
    clock.advance(1)
    stopping = periodic.stopService()
    assert stopping is not None
    assert not stopping.called
    work.callback(None)
    result_of(stopping)
    assert Periodic("never started", clock, 1.0, lambda: None).stopService() is None
