"""Waiting for the end of a run."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from gateway.app.runs import MAX_AWAITED
from gateway.errors import StoreError, Unavailable
from gateway.model import RunState
from gateway.testing import result_of
from tests.app.harness import Gate


def test_everybody_who_waits_is_told(gate: Gate) -> None:
    """Everybody who waits for a run is told how it ended, also those who waited before it existed."""
    early = [gate.runs.wait("r1", 60) for _ in range(3)]
    gate.client().send("hello")
    late = [gate.runs.wait("r1", 60) for _ in range(3)]
    gate.live().end()
    after = gate.runs.wait("r1", 60)

    outcomes = [result_of(waiting) for waiting in (*early, *late, after)]
    assert [outcome.state for outcome in outcomes if outcome] == [RunState.DONE] * 7
    assert gate.clock.getDelayedCalls() == []


def test_waiting_ends_by_its_timeout(gate: Gate) -> None:
    """Who waits too long is told nothing, and nothing of the wait is left."""
    for run in ("r1", "r2"):
        waiting = gate.runs.wait(run, 5)
        if run == "r2":
            gate.client().send("hello", run="r2")
        gate.clock.advance(6)

        assert result_of(waiting) is None
    assert gate.runs._awaited == {}
    live = gate.runs.get("r2")
    assert live is not None
    assert live.waiters == []


def test_a_wait_that_is_given_up(gate: Gate) -> None:
    """A wait that is cancelled leaves nothing behind."""
    before, other = gate.runs.wait("r1", 60), gate.runs.wait("r1", 60)
    gate.client().send("hello")
    after = gate.runs.wait("r1", 60)
    for waiting in (before, after):
        waiting.cancel()
        waiting.addErrback(lambda failure: failure.trap(CancelledError))
    gate.live().end()

    assert result_of(other) is not None
    assert gate.clock.getDelayedCalls() == []


def test_one_who_is_told_lets_another_go(gate: Gate) -> None:
    """Who is told of an end may give up another wait for it, which then is not told."""
    gate.client().send("hello")
    first = gate.runs.wait("r1", 60)
    second = gate.runs.wait("r1", 60)
    first.addCallback(lambda outcome: second.cancel())

    gate.live().end()

    with pytest.raises(CancelledError):
        result_of(second)
    assert gate.clock.getDelayedCalls() == []


def test_waits_are_bounded(gate: Gate) -> None:
    """Only so many runs that do not exist are waited for; one that is waited for already is none more."""
    waits = [gate.runs.wait(f"r{number}", 60) for number in range(MAX_AWAITED)]

    with pytest.raises(Unavailable, match="too many runs are waited for"):
        gate.runs.wait("one more", 60)
    waits.append(gate.runs.wait("r0", 60))

    gate.clock.advance(61)
    assert [result_of(waiting) for waiting in waits] == [None] * (MAX_AWAITED + 1)
    assert gate.runs._awaited == {}


def test_the_outcome_of_a_run_before_a_restart(gate: Gate) -> None:
    """How a run ended is known after a restart, and a run that has not ended is waited for."""
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", key="other", run="r2")
    gate.live("r1").end()
    again = gate.restarted()

    ended = result_of(Deferred.fromCoroutine(again.runs.outcome("r1", 0)))
    open_ = Deferred.fromCoroutine(again.runs.outcome("r2", 5))
    unknown = Deferred.fromCoroutine(again.runs.outcome("r3", 5))
    again.clock.advance(6)

    assert ended is not None
    assert ended.state is RunState.DONE
    assert result_of(open_) is None
    assert result_of(unknown) is None


@pytest.mark.parametrize("fault", ["fails", "hangs"])
def test_an_outcome_without_the_store(gate: Gate, fault: str) -> None:
    """A store that fails or does not answer costs who waits for a run at most a second."""
    if fault == "fails":
        gate.store.failing["get_run"] = StoreError("disk full")
    else:
        gate.store.hanging.add("get_run")
    waiting = Deferred.fromCoroutine(gate.runs.outcome("r1", 5))

    gate.clock.pump([1.0, 5.0])

    assert result_of(waiting) is None
