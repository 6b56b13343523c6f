"""Runs when the gateway stops, and when it starts after a crash."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable

import pytest
from twisted.internet.defer import CancelledError, Deferred

from gateway.app.stopping import stop_runs
from gateway.errors import StoreError
from gateway.model import RunState
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Gate

Gates = Callable[..., Gate]


def test_stopping(gate: Gate) -> None:
    """When the gateway stops every run that goes is ended and its end stored, and no further one begins."""
    client = gate.client()
    for number, key in enumerate(("a", "b")):
        client.send("hello", key=key, run=f"r{number}")
    gate.live("r0").sink.text("partial")

    stopped = Deferred.fromCoroutine(stop_runs(gate.runs, 2.0))

    assert result_of(stopped) is None
    for number in range(2):
        record = result_of(gate.store.get_run(f"r{number}"))
        assert (record.state, record.stop_reason) == (RunState.ABORTED, "shutdown")
        assert client.ends(f"r{number}") == (["aborted"], ["end"])
    late = client.send("hello", run="late").error
    assert late["message"] == "the gateway is stopping"
    assert (late["code"], late["retryable"], late["retryAfterMs"]) == ("UNAVAILABLE", True, 1000)
    assert gate.backend.started == ["r0", "r1"]
    assert result_of(gate.store.open_runs()) == ()


def test_waiting_runs_stay_for_the_next_start(gate: Gate) -> None:
    """Runs that wait for their turn when the gateway stops stay accepted in the store, without an end."""
    client = gate.client()
    for number in range(3):
        client.send("hello", run=f"r{number}")

    result_of(Deferred.fromCoroutine(stop_runs(gate.runs, 2.0)))

    assert gate.backend.started == ["r0"]
    assert client.ends("r0") == (["aborted"], ["end"])
    for run in ("r1", "r2"):
        assert result_of(gate.store.get_run(run)).state is RunState.ACCEPTED
        assert client.ends(run) == ([], [])
    assert [run.run_id for run in result_of(gate.store.open_runs())] == ["r1", "r2"]
    assert gate.messages() == [("user", "hello")] * 3


def test_waiting_runs_do_not_begin_while_others_finish(gate: Gate) -> None:
    """Once no more runs are taken, a run that ends does not let the next one begin."""
    client = gate.client()
    client.send("hello", run="r0")
    client.send("hello", run="r1")

    gate.runs.refuse()
    assert [run.run_id for run in gate.runs.unfinished] == ["r0"]
    gate.live("r0").end()

    assert gate.runs.unfinished == []
    assert client.ends("r0") == (["final"], ["end"])
    assert gate.backend.started == ["r0"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_who_waits_for_a_waiting_run_is_told_to_ask_again(gate: Gate, protocol: int) -> None:
    """Waits for what will not end here any more are answered UNAVAILABLE, retryable, and why."""
    client = gate.client(protocol)
    client.send("hello", run="r0")
    params = {"sessionKey": "main", "message": "hello", "idempotencyKey": "r1"}
    two_phase = client.call("agent", params)
    assert two_phase.payload["status"] == "accepted"
    waits = [client.call("agent.wait", {"runId": run}) for run in ("r1", "none", "none")]

    result_of(Deferred.fromCoroutine(stop_runs(gate.runs, 2.0)))

    for call in (two_phase, *waits):
        assert (call.error["code"], call.error["retryable"]) == ("UNAVAILABLE", True)
        assert call.error["retryAfterMs"] == 1000
        assert call.error["details"] == {"reason": "gateway-restarting"}
    assert [len(call.frames) for call in (two_phase, *waits)] == [2, 1, 1, 1]


def test_who_waits_for_a_run_that_goes_hears_its_end(gate: Gate) -> None:
    """A run that is ended by the stop answers who waits for it, as any other end does."""
    client = gate.client()
    client.send("hello", run="r0")
    waiting = client.call("agent.wait", {"runId": "r0"})

    result_of(Deferred.fromCoroutine(stop_runs(gate.runs, 2.0)))

    assert (waiting.payload["status"], waiting.payload["stopReason"]) == ("timeout", "shutdown")


def test_stopping_with_nothing_to_end(gate: Gate) -> None:
    """Where no run goes, stopping takes no time."""
    assert result_of(Deferred.fromCoroutine(stop_runs(gate.runs, 2.0))) is None


def test_the_log_is_complete_when_the_runs_have_stopped(gate: Gate) -> None:
    """Once the runs have stopped nothing waits any more: the store can close at once."""
    gate.client().send("hello")
    gate.live().sink.text("a")
    gate.live().sink.emit("tool", {"phase": "start"})

    result_of(Deferred.fromCoroutine(stop_runs(gate.runs, 2.0)))

    assert len(gate.runs.log) == 0
    events = result_of(gate.store.list_events("r1", after_seq=0, limit=10))
    assert [event.stream for event in events] == ["lifecycle", "assistant", "tool", "lifecycle"]


def test_stopping_with_a_store_that_hangs(gate: Gate) -> None:
    """A run that the store never accepted is given up after two seconds, with a line in the log."""
    client = gate.client()
    gate.store.hanging.add("accept_turn")
    client.send("hello")

    with Lines() as lines:
        stopped = Deferred.fromCoroutine(stop_runs(gate.runs, 2.0))
        gate.clock.advance(2.1)

    assert result_of(stopped) is None
    assert lines.texts == ["run r1 did not end"]
    gate.store.release()
    assert client.ends() == (["aborted"], ["end"])


def test_stopping_while_a_run_waits_for_the_store(gate: Gate) -> None:
    """A run whose start the store has refused to note is left for the next start, as it is stored."""
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", run="r2")
    gate.store.failing["start_run"] = StoreError("disk full")
    gate.live("r1").end()
    client.send("three", run="r3")
    stopped = Deferred.fromCoroutine(stop_runs(gate.runs, 2.0))
    gate.store.failing.clear()
    gate.clock.pump([0.5] * 10)

    assert stopped.called
    assert client.ends("r2") == ([], [])
    assert gate.backend.started == ["r1"]
    left = [(run.run_id, run.state) for run in result_of(gate.store.open_runs())]
    assert left == [("r2", RunState.ACCEPTED), ("r3", RunState.ACCEPTED)]
    assert gate.clock.getDelayedCalls() == []


def test_stopping_during_the_recovery(gate: Gate) -> None:
    """Runs that the start had no time to end do not hold up the stop: the next start ends them."""
    gate.client().send("hello")
    again = gate.restarted()
    again.store.hanging.add("event_span")
    recovering = Deferred.fromCoroutine(again.runs.recover())
    recovering.addErrback(lambda failure: failure.trap(CancelledError) and None)
    recovering.cancel()

    assert again.runs.unfinished == []
    assert result_of(Deferred.fromCoroutine(stop_runs(again.runs, 2.0))) is None
    assert result_of(gate.store.get_run("r1")).state is RunState.RUNNING


@pytest.mark.parametrize("starts", [False, True], ids=["a stop", "a start"])
def test_what_is_given_up(gate: Gate, starts: bool) -> None:
    """A stop, or a start, that takes too long to end its runs is cancelled without a failure."""
    for key in ("a", "b"):
        gate.client().send("hello", key=key, run=key)
    which = gate.restarted() if starts else gate
    gate.store.hanging.add("finish_turn")
    ending = which.runs.recover() if starts else stop_runs(which.runs, 10.0)
    work: Deferred[object] = Deferred.fromCoroutine(ending)
    said = []
    work.addErrback(lambda failure: said.append(failure.check(CancelledError)))
    work.cancel()
    del work
    gc.collect()

    assert said == [CancelledError]
    gate.store.release()
    gate.clock.advance(10)


def test_stopping_while_a_request_is_prepared(gate: Gate) -> None:
    """A request that was looked at before the stop starts no run after it; its repeat hears that too."""
    client = gate.client()
    gate.store.hanging.add("get_run")
    first = client.send("/new hello")
    repeat = gate.runs.wait("r1", 60)
    result_of(Deferred.fromCoroutine(stop_runs(gate.runs, 2.0)))
    gate.store.release()

    assert first.error["message"] == "the gateway is stopping"
    assert gate.backend.started == []
    assert repeat.called
    repeat.addErrback(lambda _: None)


def test_a_request_that_finds_its_lane_full_after_all(gates: Gates) -> None:
    """Who repeats a request while it is prepared is told when it is refused behind that."""
    gate = gates(limits={"lane_depth": 1})
    client = gate.client()
    gate.store.hanging.add("get_run")
    client.send("/new hello", run="late")
    repeat = gate.runs.wait("late", 60)
    gate.store.hanging = {"finish_turn"}
    for number in range(2):
        client.send("hello", run=f"r{number}")
    gate.store.held.pop()()
    gate.store.release()

    outcome = result_of(repeat)
    assert outcome is not None
    assert outcome.error == "too many messages wait in this session"


def test_a_run_accepted_while_stopping(gate: Gate) -> None:
    """A run that a slow store accepts after the stop does not begin."""
    gate.store.hanging.add("accept_turn")
    gate.client().send("hello")
    stopped = Deferred.fromCoroutine(stop_runs(gate.runs, 2.0))

    gate.store.release()

    assert result_of(stopped) is None
    assert gate.backend.started == []
    assert len(gate.runs) == 0


def test_recovery(gate: Gate) -> None:
    """The runs that a crash left open are ended when the gateway starts, their logs included."""
    client = gate.client()
    client.send("one", run="r1")
    gate.live("r1").sink.text("partial")
    gate.turn()
    client.send("two", key="other", run="r2")
    gate.live("r2").end()
    again = gate.restarted()
    again.client().send("mine", key="third", run="r3")

    with Lines() as lines:
        count = result_of(Deferred.fromCoroutine(again.runs.recover()))

    assert count == 1
    assert lines.texts == [
        "1 runs were open after a crash; ended=1 run=0",
        "run ended run=r1 session=agent:main:main agent=main state=failed",
    ]
    record = result_of(again.store.get_run("r1"))
    assert (record.state, record.error) == (RunState.FAILED, "interrupted by a restart")
    assert record.stop_reason == "interrupted"
    events = result_of(again.store.list_events("r1", after_seq=0, limit=10))
    assert [event.seq for event in events] == [1, 2, 3]
    assert json.loads(events[-1].data)["phase"] == "error"
    assert record.last_seq == 3
    assert result_of(again.store.get_run("r2")).state is RunState.DONE
    assert not result_of(again.store.get_run("r3")).state.terminal
    assert result_of(Deferred.fromCoroutine(again.restarted().runs.recover())) == 1


def test_nothing_to_recover(gate: Gate) -> None:
    """After an orderly stop there is nothing to recover, and nothing is said."""
    with Lines() as lines:
        assert result_of(Deferred.fromCoroutine(gate.runs.recover())) == 0

    assert lines.texts == []


def test_a_recovery_that_fails_for_one_run(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A run that can't be ended does not keep the gateway from starting."""
    expected_failures.append(StoreError)
    gate.client().send("hello")
    again = gate.restarted()
    again.store.failing["finish_turn"] = StoreError("disk full")

    assert result_of(Deferred.fromCoroutine(again.runs.recover())) == 1
    again.store.failing.clear()
    assert not result_of(again.store.get_run("r1")).state.terminal
