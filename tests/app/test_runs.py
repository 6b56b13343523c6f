"""Runs: numbered, listened to, one at a time in a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred

from gateway.app.turn import Turn
from gateway.core.run import EncodeFailed, RunOutput
from gateway.errors import InvalidRequest, StoreError
from gateway.model import Message, RunRequest, RunState
from gateway.testing import result_of
from tests.app.harness import Gate

Gates = Callable[..., Gate]


def make_turn(run: str = "r1", text: str = "hello", **more: Any) -> Turn:
    """Return a request for a run in the session ``main``."""
    request = RunRequest(
        run_id=run, session_key="agent:main:main", session_id="", agent_id="main", text=text
    )
    message = Message(message_id=f"m-{run}", role="user", content=[], timestamp_ms=0, run_id=run)
    return Turn(request, message, fingerprint=text, origin="chat", actor="a", **more)


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

    since = gate.clock.now_ms()
    gate.clock.advance(3)
    refused = client.send("hello", run="r4").error
    gate.live("r1").end()

    assert refused == {
        "code": "UNAVAILABLE",
        "message": "too many messages wait in this session",
        "retryable": True,
        "retryAfterMs": 1000,
        "details": {
            "reason": "session-busy",
            "runId": "r1",
            "since": since,
            "busyMs": 3000,
            "waiting": 2,
        },
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
    early = second.called
    hanging.callback(None)
    third = gate.runs.start(make_turn(prepare=prepare))
    gate.live().end()
    fourth = gate.restarted().runs.start(make_turn(prepare=prepare))

    assert done == ["prepared"]
    assert result_of(first).fresh
    assert not early
    assert not result_of(second).fresh
    assert not result_of(third).fresh
    assert not result_of(fourth).fresh


def test_what_comes_before_a_run_fails(gate: Gate) -> None:
    """Where what comes before fails there is no run, and the key is free: a repeat begins anew."""
    hanging: Deferred[None] = Deferred()

    async def prepare() -> None:
        await hanging

    first = gate.runs.start(make_turn(prepare=prepare))
    second = gate.runs.start(make_turn())
    repeat = gate.runs.wait("r1", 60)
    hanging.errback(InvalidRequest("not now"))

    with pytest.raises(InvalidRequest, match="not now"):
        result_of(first)
    outcome = result_of(repeat)
    assert outcome is not None
    assert (outcome.state, outcome.error) == (RunState.FAILED, "not now")
    assert result_of(second).fresh


def test_a_repeat_while_the_run_is_stored(gate: Gate) -> None:
    """A repeat is not answered before the store has the run, so that whoever is answered can read it."""
    gate.store.hanging.add("accept_turn")
    client, again = gate.client(), gate.client()
    first, second = client.send("hello"), again.send("hello")
    early = list(second.frames)
    gate.store.release()

    assert not early
    assert first.payload["status"] == "started"
    assert second.payload["status"] == "in_flight"
    assert again.ok("runs.follow", {"runId": "r1"})["status"] == "replay"
    assert gate.backend.started == ["r1"]
    gate.live().end()


def test_a_repeat_while_the_run_is_refused(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A repeat of a request that the store did not take is a request of its own."""
    expected_failures.append(StoreError)
    accept_turn, answer = gate.store.accept_turn, Deferred[Any]()
    gate.store.accept_turn = lambda *_: answer
    first, second = gate.client().send("hello"), gate.client().send("hello")
    gate.store.accept_turn = accept_turn
    answer.errback(StoreError("disk full"))

    assert first.error["code"] == "UNAVAILABLE"
    assert second.payload["status"] == "started"
    assert gate.backend.started == ["r1"]
    gate.live().end()


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
    gate: Gate, expected_failures: list[type[BaseException]], logged_failures: list[Any]
) -> None:
    """What goes wrong when a session's change is announced does not touch the run."""
    expected_failures += [ZeroDivisionError, EncodeFailed]
    client = gate.client()
    client.ok("sessions.subscribe")
    accept_turn = gate.store.accept_turn

    def accept(*args: Any) -> Any:
        """Accept it in a session that has no JSON form."""
        return accept_turn(*args).addCallback(
            lambda stored: (replace(stored[0], settings={"x": object()}), stored[1])
        )

    def get_session(key: str) -> Any:
        raise ZeroDivisionError

    client.send("first", key="other", run="r0")
    gate.store.accept_turn = accept
    client.send("hello")
    gate.store.get_session = get_session
    gate.live().end()

    assert client.ends() == (["final"], ["end"])
    assert len(logged_failures) == 2
    assert [run.run_id for run in gate.runs.going_in("agent:main:other")] == ["r0"]


def test_a_run_without_a_message(gate: Gate) -> None:
    """A run for which the store kept no message starts, and none is announced."""
    client = gate.client()
    client.ok("sessions.subscribe")
    accept_turn = gate.store.accept_turn
    gate.store.accept_turn = lambda *args: accept_turn(*args).addCallback(
        lambda stored: (stored[0], None)
    )

    assert client.send("hello").payload == {"runId": "r1", "status": "started"}
    assert client.events("session.message") == []
    assert len(client.events("sessions.changed")) == 1


def test_the_answer_comes_before_the_events(gate: Gate) -> None:
    """With a store that takes its time, the request is answered before the run's first event."""
    gate.store.hanging.add("accept_turn")
    order: list[str] = []
    start = gate.runs.start(make_turn())
    start.addCallback(lambda started: order.append("answer"))
    gate.runs.add_listener(lambda output: order.append(output.stream))

    gate.store.release()

    assert order == ["answer", "lifecycle"]
