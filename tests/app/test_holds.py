"""gateway.app.holds: a session to itself, for work that is no run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import CancelledError

from gateway.errors import Unavailable
from gateway.testing import result_of
from tests.app.harness import Gate

KEY = "agent:main:main"


def test_no_run_goes_while_a_session_is_held(gate: Gate) -> None:
    """Runs that come while a session is held wait, and go in their order when it is released."""
    client = gate.client()
    hold = result_of(gate.runs.hold(KEY, "h"))
    client.send("one", run="r1")
    client.send("two", run="r2")
    client.send("elsewhere", key="other", run="r3")
    before = list(gate.backend.started)
    hold.release()
    hold.release()

    assert before == ["r3"]
    assert gate.backend.started == ["r3", "r1"]
    gate.live("r1").end()
    gate.clock.advance(1)
    assert gate.backend.started == ["r3", "r1", "r2"]
    assert len(gate.runs.holds) == 0


def test_a_hold_waits_for_the_runs_before_it(gate: Gate) -> None:
    """A session is held when the run that goes has ended, before the runs that came later."""
    client = gate.client()
    client.send("one", run="r1")
    waiting = gate.runs.hold(KEY, "h")
    client.send("two", run="r2")
    gate.live("r1").end()
    gate.clock.advance(1)
    hold = result_of(waiting)
    assert gate.backend.started == ["r1"]
    again = gate.runs.hold(KEY, "h2")
    hold.release()
    assert gate.backend.started == ["r1", "r2"]
    gate.live("r2").end()
    gate.clock.advance(1)

    result_of(again).release()
    assert not gate.runs.busy(KEY)


def test_who_waits_no_more_leaves_the_lane(gate: Gate) -> None:
    """A hold that is cancelled keeps nobody waiting."""
    client = gate.client()
    client.send("one", run="r1")
    waiting = gate.runs.hold(KEY, "h")
    client.send("two", run="r2")
    waiting.cancel()
    with pytest.raises(CancelledError):
        result_of(waiting)
    gate.live("r1").end()
    gate.clock.advance(1)

    assert gate.backend.started == ["r1", "r2"]
    assert len(gate.runs.holds) == 0


def test_too_many_wait(gates: Callable[..., Gate]) -> None:
    """A lane that is full takes no hold; one that is held says so to runs, without naming one."""
    gate = gates(limits={"lane_depth": 1})
    client = gate.client()
    hold = result_of(gate.runs.hold(KEY, "h"))
    client.send("one", run="r1")
    refused = client.send("two", run="r2").error

    assert refused["code"] == "UNAVAILABLE"
    assert refused["details"]["reason"] == "session-busy"
    assert (refused["details"]["waiting"], "runId" in refused["details"]) == (1, False)
    with pytest.raises(Unavailable, match="too many"):
        result_of(gate.runs.hold(KEY, "h2"))
    hold.release()


def test_a_gateway_that_stops(gate: Gate) -> None:
    """Who waits when the gateway stops is told, and nobody is let in any more; who holds may finish."""
    held = result_of(gate.runs.hold(KEY, "h"))
    waiting = gate.runs.hold(KEY, "h2")
    gate.runs.refuse()

    for each in (waiting, gate.runs.hold(KEY, "h3")):
        with pytest.raises(Unavailable, match="stopping"):
            result_of(each)
    assert len(gate.runs.holds) == 1
    held.release()
    assert not gate.runs.busy(KEY)


@pytest.mark.parametrize("mode", ["followup", "collect", "steer", "interrupt"])
def test_messages_to_a_session_that_is_held(gate: Gate, mode: str) -> None:
    """Whatever is to become of messages that wait, while a session is held they wait in their order."""
    client = gate.client()
    hold = result_of(gate.runs.hold(KEY, "h"))
    client.send("one", run="r1", queueMode=mode)
    before = list(gate.backend.started)
    hold.release()
    gate.live("r1").end()
    gate.clock.advance(1)

    assert (before, gate.backend.started) == ([], ["r1"])
    assert client.ends("r1") == (["final"], ["end"])


def test_messages_behind_a_hold_that_waits(gate: Gate) -> None:
    """Messages that came after a hold was asked for are not collected before it."""
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", run="r2", queueMode="collect")
    waiting = gate.runs.hold(KEY, "h")
    client.send("three", run="r3", queueMode="collect")
    gate.live("r1").end()
    gate.clock.advance(1)
    texts = gate.live("r2").request.text
    gate.live("r2").end()
    gate.clock.advance(1)
    before = list(gate.backend.started)
    result_of(waiting).release()
    gate.live("r3").end()

    assert texts == "two"
    assert (before, gate.backend.started) == (["r1", "r2"], ["r1", "r2", "r3"])
