"""Runs: accepted once, one at a time in a session, waited for, ended when the gateway stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from gateway.app.runs import MAX_AWAITED
from gateway.app.turn import Turn
from gateway.core.run import RunOutput
from gateway.errors import InvalidRequest, StoreError, Unavailable, VersionConflict
from gateway.model import Message, RunRequest, RunState
from gateway.testing import result_of
from tests.app.harness import Gate, Lines

Gates = Callable[..., Gate]
CONFLICT = {
    "code": "INVALID_REQUEST",
    "message": "idempotency key was used for another request",
    "details": {"reason": "chat-request-conflict"},
}


def make_turn(run: str = "r1", text: str = "hello", **more: Any) -> Turn:
    """Return a request for a run in the session ``main``."""
    request = RunRequest(
        run_id=run, session_key="agent:main:main", session_id="", agent_id="main", text=text
    )
    message = Message(message_id=f"m-{run}", role="user", content=[], timestamp_ms=0, run_id=run)
    return Turn(request, message, fingerprint=text, origin="chat", actor="a", **more)


# -- the same key, the same run


def test_the_same_key(gate: Gate, gates: Gates) -> None:
    """The same idempotency key returns the same run, also while it runs and after it ended; another content under the same key is refused."""  # noqa: E501
    client = gate.client()
    first = client.send("hello").payload
    while_it_runs = client.send("hello").payload
    other_while_it_runs = client.send("something else").error
    gate.live().sink.text("answer")
    gate.live().end()
    after_it_ended = client.send("hello").payload
    other_after_it_ended = client.send("something else").error

    again = gate.restarted()
    newcomer = again.client()
    after_a_restart = newcomer.send("hello").payload
    and_again = newcomer.send("hello").payload
    other_after_a_restart = newcomer.send("something else").error

    assert first == {"runId": "r1", "status": "started", "messageSeq": 1}
    assert while_it_runs == {"runId": "r1", "status": "in_flight"}
    assert after_it_ended == after_a_restart == and_again == {"runId": "r1", "status": "ok"}
    assert other_while_it_runs == other_after_it_ended == other_after_a_restart == CONFLICT
    assert gate.backend.started == ["r1"]
    assert again.backend.started == []
    assert gate.messages() == [("user", "hello"), ("assistant", "answer")]
    assert len(again.runs) == len(again.runs.lanes) == 0


def test_another_content_first_after_a_restart(gate: Gate) -> None:
    """After a restart other content under a key that was used is refused, and the run is still known."""
    gate.client().send("hello")
    gate.live().end()
    client = gate.restarted().client()

    assert client.send("something else").error == CONFLICT
    assert client.send("hello").payload == {"runId": "r1", "status": "ok"}


def test_the_same_key_while_the_store_takes_it(gate: Gate) -> None:
    """A repeat that comes before the store has the run is answered for that run."""
    client = gate.client()
    gate.store.hanging.add("accept_turn")
    first = client.send("hello")
    second = client.send("hello")
    gate.store.release()

    assert first.payload["status"] == "started"
    assert second.payload["status"] == "in_flight"
    assert gate.backend.started == ["r1"]


def test_the_key_lives_from_the_end_of_its_run(gate: Gate) -> None:
    """A key is remembered for its time to live after the end; then the store still knows the run."""
    client = gate.client()
    client.send("hello", timeoutMs=0)
    gate.clock.advance(1000)
    gate.runs.window.claims.sweep(gate.clock.now_ms())
    running = client.send("hello").payload["status"]
    gate.live().end()
    gate.clock.advance(301)
    gate.runs.window.claims.sweep(gate.clock.now_ms())

    assert running == "in_flight"
    assert "r1" not in gate.runs.window.claims
    assert client.send("hello").payload["status"] == "ok"
    assert gate.backend.started == ["r1"]


def test_a_repeat_of_a_run_that_was_interrupted(gate: Gate) -> None:
    """A repeat of a run whose end was never stored is told so, and the run is ended in the store."""
    gate.client().send("hello")
    gate.turn()
    again = gate.restarted()
    client = again.client()

    refused = client.send("hello")

    assert refused.error["message"] == "interrupted by a restart"
    assert refused.frame["payload"]["status"] == "error"
    assert result_of(again.store.get_run("r1")).state is RunState.FAILED


def test_who_waits_for_a_repeat(gate: Gate) -> None:
    """Who waits for a run that turns out to be a repeat is told how that ended."""
    gate.client().send("hello")
    gate.live().end()
    again = gate.restarted()
    client = again.client()
    waiting = again.runs.wait("r1", 60)
    again.store.hanging.add("get_run")
    call = client.call("agent", {"message": "hello", "idempotencyKey": "r1"})
    repeat = client.call("agent", {"message": "hello", "idempotencyKey": "r1"})

    again.store.release()

    assert call.payload["status"] == repeat.payload["status"] == "ok"
    outcome = result_of(waiting)
    assert outcome is not None
    assert outcome.state is RunState.DONE


def test_a_repeat_that_can_not_be_looked_up(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A repeat for which the store fails may be tried again, and who waits for it is not left waiting."""
    expected_failures.append(StoreError)
    gate.client().send("hello")
    gate.live().end()
    again = gate.restarted()
    client = again.client()
    waiting = again.runs.wait("r1", 60)
    again.store.failing["get_run"] = StoreError("disk full")

    refused = client.send("hello").error
    outcome = result_of(waiting)
    again.store.failing.clear()

    assert refused["code"] == "UNAVAILABLE"
    assert refused["retryable"]
    assert client.events("chat") == []
    assert outcome is not None
    assert outcome.state is RunState.FAILED
    assert client.send("hello").payload == {"runId": "r1", "status": "ok"}


def test_a_run_that_is_gone_again(gate: Gate, expected_failures: list[type[BaseException]]) -> None:
    """A run that the store knew of a moment ago, and does not any more, may be tried again."""
    expected_failures.append(StoreError)
    gate.store.failing["accept_turn"] = VersionConflict("stored already")

    assert gate.client().send("hello").error["retryable"]
    assert len(gate.runs) == len(gate.runs.window.claims) == 0


# -- numbers


def test_numbers_rise_by_one(gate: Gate, gates: Gates) -> None:
    """A run's event numbers rise by one from 1, across all its streams, and a new registry in the same process starts at 1."""  # noqa: E501
    for registry in (gate, gates()):
        outputs = registry.record()
        registry.client().send("hello")
        sink = registry.live().sink
        for step in range(5):
            sink.text(f"text {step}")
            sink.text(" more")
            sink.emit("tool", {"phase": "start", "name": str(step)})
            sink.emit("thinking", {"text": "hm"})
            registry.clock.advance(0.15 * (step % 2))
        sink.text("last")
        registry.live().end()

        assert [output.seq for output in outputs] == list(range(1, len(outputs) + 1))
        assert {output.stream for output in outputs} == {
            "lifecycle",
            "assistant",
            "tool",
            "thinking",
        }
        stored = result_of(registry.store.list_events("r1", after_seq=0, limit=100))
        assert [event.seq for event in stored] == [output.seq for output in outputs]
        assert [event.data for event in stored] == [output.data for output in outputs]
    assert gate.runs.epoch
    assert result_of(gate.store.get_run("r1")).last_seq == len(gate.outputs)


def test_a_listener_that_raises(
    gate: Gate, expected_failures: list[type[BaseException]], logged_failures: list[Any]
) -> None:
    """A listener that raises is logged and counted, and the other listeners get the event."""
    expected_failures.append(ZeroDivisionError)
    before = gate.record()

    def broken(output: RunOutput) -> None:
        raise ZeroDivisionError

    gate.runs.add_listener(broken)
    after: list[RunOutput] = []
    gate.runs.add_listener(after.append)
    client = gate.client()
    client.send("hello")
    gate.live().end()

    assert before == after
    assert len(after) == 2
    assert len(logged_failures) == 2
    assert b"gateway_listener_errors_total 2.0" in gate.wiring.metrics.render()
    assert client.ends() == (["final"], ["end"])


# -- lanes


def test_one_at_a_time_in_a_session(gate: Gate) -> None:
    """Runs of one session go one after the other, in the order of their requests."""
    client = gate.client()
    statuses = [client.send(run, run=run).payload["status"] for run in ("r1", "r2", "r3")]
    started = [list(gate.backend.started)]
    for run in ("r1", "r2", "r3"):
        gate.live(run).end()
        started.append(list(gate.backend.started))

    assert statuses == ["started"] * 3
    assert started == [["r1"], ["r1", "r2"], ["r1", "r2", "r3"], ["r1", "r2", "r3"]]
    assert len(gate.runs) == len(gate.runs.lanes) == 0


def test_sessions_do_not_wait_for_each_other(gate: Gate) -> None:
    """Runs of different sessions go at the same time."""
    client = gate.client()
    for number in range(20):
        client.send("hello", key=f"s{number}", run=f"r{number}")

    assert len(gate.backend.started) == 20


def test_a_lane_is_bounded(gates: Gates) -> None:
    """As many runs wait in a session as the limit says; the next is refused and may be tried again."""
    gate = gates(limits={"lane_depth": 2})
    client = gate.client()
    for run in ("r1", "r2", "r3"):
        client.send("hello", run=run)

    refused = client.send("hello", run="r4").error
    gate.live("r1").end()

    assert refused == {
        "code": "UNAVAILABLE",
        "message": "too many messages wait in this session",
        "retryable": True,
        "retryAfterMs": 1000,
    }
    assert client.send("hello", run="r4").payload["status"] == "started"


def test_runs_are_bounded(gates: Gates) -> None:
    """As many runs go at once as idempotency keys are held; the next is refused."""
    gate = gates(limits={"idempotency_max": 3})
    client = gate.client()
    for number in range(3):
        client.send("hello", key=f"s{number}", run=f"r{number}")

    assert client.send("hello", key="s4", run="r4").error["message"] == "too many runs"
    gate.live("r0").end()
    assert client.send("hello", key="s4", run="r4").payload["status"] == "started"


def test_the_next_run_goes_when_the_one_before_was_not_stored(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A run behind one that the store refuses in the end goes as soon as that is refused."""
    expected_failures.append(StoreError)
    client = gate.client()
    accepting: Deferred[Any] = Deferred()
    accept_turn, gate.store.accept_turn = gate.store.accept_turn, lambda *_: accepting
    first = client.send("one", run="r1")
    gate.store.accept_turn = accept_turn
    second = client.send("two", run="r2")
    waiting = list(gate.backend.started)

    accepting.errback(StoreError("disk full"))

    assert waiting == []
    assert second.payload["status"] == "started"
    assert first.error["retryable"]
    assert gate.backend.started == ["r2"]


def test_a_run_that_ends_while_it_waits(gate: Gate) -> None:
    """A run whose end is being stored when its turn comes is passed over."""
    client = gate.client()
    for run in ("r1", "r2", "r3"):
        client.send(run, run=run)
    gate.store.hanging.add("finish_turn")
    gate.runs.abort("r2", "rpc")
    gate.store.hanging.clear()

    gate.live("r1").end()
    passed = list(gate.backend.started)
    gate.store.release()

    assert passed == ["r1"]
    assert gate.backend.started == ["r1", "r3"]


# -- waiting for a run


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


# -- before a run


def test_what_comes_before_a_run_is_done_once(gate: Gate, gates: Gates) -> None:
    """What a request asks for before its run is done once, however often the request comes."""
    done: list[str] = []
    hanging: Deferred[None] = Deferred()

    async def prepare() -> None:
        done.append("prepared")
        await hanging

    first = gate.runs.start(make_turn(prepare=prepare))
    second = gate.runs.start(make_turn(prepare=prepare))
    early = result_of(second)
    hanging.callback(None)
    third = gate.runs.start(make_turn(prepare=prepare))
    gate.live().end()
    fourth = gate.restarted().runs.start(make_turn(prepare=prepare))

    assert done == ["prepared"]
    assert result_of(first).fresh
    assert not early.fresh
    assert not result_of(third).fresh
    assert not result_of(fourth).fresh


def test_what_comes_before_a_run_fails(gate: Gate) -> None:
    """Where what comes before fails there is no run: the key is free, and repeats are refused too."""
    hanging: Deferred[None] = Deferred()

    async def prepare() -> None:
        await hanging

    first = gate.runs.start(make_turn(prepare=prepare))
    gate.runs.start(make_turn(prepare=prepare))
    repeat = gate.runs.wait("r1", 60)
    hanging.errback(InvalidRequest("not now"))

    with pytest.raises(InvalidRequest, match="not now"):
        result_of(first)
    outcome = result_of(repeat)
    assert outcome is not None
    assert (outcome.state, outcome.error) == (RunState.FAILED, "not now")
    assert result_of(gate.runs.start(make_turn())).fresh


def test_who_stops_waiting_for_a_start(gate: Gate) -> None:
    """A run whose requester is gone is carried through."""
    gate.store.hanging.add("accept_turn")
    start = gate.runs.start(make_turn())
    start.cancel()
    start.addErrback(lambda failure: failure.trap(CancelledError))

    gate.store.release()

    assert gate.backend.started == ["r1"]


# -- announcements


def test_an_announcement_that_fails(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """What goes wrong when a session's change is announced does not touch the run."""
    expected_failures.append(ZeroDivisionError)
    client = gate.client()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    gate.services.sessions.accepted = broken  # type: ignore[method-assign]
    gate.services.sessions.ended = broken  # type: ignore[method-assign]
    client.send("hello")
    gate.live().end()

    assert client.ends() == (["final"], ["end"])
    assert len(gate.runs) == 0


def test_the_answer_comes_before_the_events(gate: Gate) -> None:
    """With a store that takes its time, the request is answered before the run's first event."""
    gate.store.hanging.add("accept_turn")
    order: list[str] = []
    start = gate.runs.start(make_turn())
    start.addCallback(lambda started: order.append("answer"))
    gate.runs.add_listener(lambda output: order.append(output.stream))

    gate.store.release()

    assert order == ["answer", "lifecycle"]


# -- stop and recover


def test_stopping(gate: Gate) -> None:
    """When the gateway stops every run is ended and its end stored, and no further one begins."""
    client = gate.client()
    for number, key in enumerate(("a", "a", "b", "a")):
        client.send("hello", key=key, run=f"r{number}")
    gate.live("r0").sink.text("partial")

    stopped = Deferred.fromCoroutine(gate.runs.stop())

    assert result_of(stopped) is None
    assert gate.backend.started == ["r0", "r2"]
    for number in range(4):
        record = result_of(gate.store.get_run(f"r{number}"))
        assert (record.state, record.stop_reason) == (RunState.ABORTED, "shutdown")
        assert client.ends(f"r{number}") == (["aborted"], ["end"])
    assert client.send("hello", run="late").error["message"] == "the gateway is stopping"
    assert result_of(gate.store.open_runs()) == ()


def test_stopping_with_nothing_to_end(gate: Gate) -> None:
    """Where no run goes, stopping takes no time."""
    assert result_of(Deferred.fromCoroutine(gate.runs.stop())) is None


def test_the_log_is_complete_when_the_runs_have_stopped(gate: Gate) -> None:
    """Once the runs have stopped nothing waits any more: the store can close at once."""
    gate.client().send("hello")
    gate.live().sink.text("a")
    gate.live().sink.emit("tool", {"phase": "start"})

    result_of(Deferred.fromCoroutine(gate.runs.stop()))

    assert len(gate.runs.log) == 0
    events = result_of(gate.store.list_events("r1", after_seq=0, limit=10))
    assert [event.stream for event in events] == ["lifecycle", "assistant", "tool", "lifecycle"]


def test_stopping_with_a_store_that_hangs(gate: Gate) -> None:
    """A run that the store never accepted is given up after two seconds, with a line in the log."""
    client = gate.client()
    gate.store.hanging.add("accept_turn")
    client.send("hello")

    with Lines() as lines:
        stopped = Deferred.fromCoroutine(gate.runs.stop())
        gate.clock.advance(2.1)

    assert result_of(stopped) is None
    assert lines.texts == ["run r1 did not end"]
    gate.store.release()
    assert client.ends() == (["aborted"], ["end"])


def test_a_run_accepted_while_stopping(gate: Gate) -> None:
    """A run that a slow store accepts after the stop does not begin."""
    gate.store.hanging.add("accept_turn")
    gate.client().send("hello")
    stopped = Deferred.fromCoroutine(gate.runs.stop())

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
    assert lines.texts == ["1 runs were open after a crash; ended"]
    record = result_of(again.store.get_run("r1"))
    assert (record.state, record.error) == (RunState.FAILED, "interrupted by a restart")
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
