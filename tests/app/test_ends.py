"""Ends of runs that the store did not take: kept, stored later, told to whoever asks."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from gateway.app.ends import Ends, outcome_of
from gateway.app.stopping import stop_runs
from gateway.errors import StoreError, VersionConflict
from gateway.metrics import Metrics
from gateway.model import Message, RunEvent, RunRecord, RunState, TurnEnd
from gateway.testing import FakeClock, result_of
from tests.app.faults import Lines
from tests.app.harness import Gate

FULL = StoreError("disk full")


@pytest.fixture(autouse=True)
def failing_stores(expected_failures: list[type[BaseException]]) -> None:
    """Expect the first refusal of each end to be logged."""
    expected_failures.append(StoreError)


def end_badly(gate: Gate, run: str = "r1", text: str = "answer") -> None:
    """End a run while the store takes no ends."""
    gate.store.failing["finish_turn"] = FULL
    gate.live(run).sink.text(text)
    gate.live(run).end()


def state_of(gate: Gate, run: str = "r1") -> RunState:
    """Return the stored state of a run."""
    state: RunState = result_of(gate.store.get_run(run)).state
    return state


def recovered(gate: Gate) -> int:
    """Look for open runs of other processes."""
    count: int = result_of(Deferred.fromCoroutine(gate.runs.recover()))
    return count


def test_an_end_is_stored_when_the_store_works_again(gate: Gate) -> None:
    """After a full disk was freed record, log and transcript are complete without a restart, and followers get the message."""  # noqa: E501
    client = gate.client()
    client.ok("sessions.messages.subscribe", {"key": "main"})
    client.send("hello")
    end_badly(gate)
    gate.clock.advance(10)
    before = (state_of(gate), client.ends(), len(client.events("session.message")))

    gate.store.failing.clear()
    with Lines() as lines:
        gate.clock.advance(5)

    assert before == (RunState.RUNNING, (["final"], ["end"]), 1)
    assert client.ends() == (["final"], ["end"])
    assert state_of(gate) is RunState.DONE
    assert client.events("session.message")[-1]["messageSeq"] == 2
    assert gate.messages() == [("user", "hello"), ("assistant", "answer")]
    events = result_of(gate.store.list_events("r1", after_seq=0, limit=10))
    assert [event.stream for event in events] == ["lifecycle", "assistant", "lifecycle"]
    assert lines.texts == ["run r1: its end is stored now"]
    assert len(gate.runs.ends) == 0
    assert gate.clock.getDelayedCalls() == []


def test_the_outcome_is_known_meanwhile(gate: Gate) -> None:
    """While its end is not stored, a run's outcome is told to who asks and who repeats the request, also when the key is forgotten."""  # noqa: E501
    client = gate.client()
    client.send("hello")
    end_badly(gate)
    gate.runs.window.claims.pop("r1")

    waited = client.ok("agent.wait", {"runId": "r1"})
    outcome = result_of(gate.runs.wait("r1", 60))
    gate.runs.window.claims.pop("r1")
    repeat = client.send("hello").payload

    assert waited["status"] == repeat["status"] == "ok"
    assert outcome is not None
    assert gate.backend.started == ["r1"]
    assert recovered(gate) == 0


def test_an_end_that_was_stored_although_the_store_said_no(gate: Gate) -> None:
    """An end whose transaction was committed all the same is not stored twice; its message is announced."""
    client = gate.client()
    client.ok("sessions.messages.subscribe", {"key": "main"})
    client.send("hello")
    finish_turn = gate.store.finish_turn

    def stored(*args: Any) -> Any:
        def refuse(_: Any) -> Any:
            raise FULL

        return finish_turn(*args).addCallback(refuse)

    gate.store.finish_turn = stored
    gate.live().sink.text("answer")
    gate.live().end()
    gate.store.finish_turn = finish_turn
    gate.clock.advance(1)

    assert gate.messages() == [("user", "hello"), ("assistant", "answer")]
    assert client.events("session.message")[-1]["messageSeq"] == 2
    assert len(gate.runs.ends) == 0


def test_a_message_that_can_not_be_looked_up(gate: Gate) -> None:
    """Where the message of such an end can't be read, the end counts as stored, and nothing is announced."""
    client = gate.client()
    client.ok("sessions.messages.subscribe", {"key": "main"})
    client.send("hello")
    end_badly(gate)
    gate.store.failing = {"finish_turn": VersionConflict("ended"), "list_messages": FULL}
    gate.clock.advance(1)

    assert len(gate.runs.ends) == 0
    assert len(client.events("session.message")) == 1


def test_a_late_answer_of_the_store(gate: Gate) -> None:
    """An end for which the store takes its time is given to it once; its outcome is known meanwhile."""
    client = gate.client()
    client.send("one", run="r1")
    gate.store.hanging.add("finish_turn")
    gate.live("r1").end()
    gate.clock.advance(30)
    held = (len(gate.store.held), len(gate.runs.ends), gate.runs.ends.outcome("r1"))
    gate.store.release()

    assert held[:2] == (1, 1)
    assert held[2] is not None
    assert len(gate.runs.ends) == 0
    assert state_of(gate) is RunState.DONE


def test_a_repeat_after_an_end_was_given_up(gate: Gate) -> None:
    """A run whose end was given up is not run again for a repeat: it ends as interrupted, behind its stored log."""  # noqa: E501
    client = gate.client()
    client.send("hello")
    gate.turn()
    end_badly(gate)
    gate.runs.ends._give_up("r1")
    gate.runs.window.claims.pop("r1")
    gate.store.failing.clear()
    repeat = client.send("hello")
    gate.clock.advance(1)

    assert repeat.error["details"] == {"reason": "interrupted"}
    assert gate.backend.started == ["r1"]
    assert state_of(gate) is RunState.FAILED
    log = client.ok("runs.read", {"runId": "r1"})
    assert [event["seq"] for event in log["events"]] == [1, 2]


def test_the_pauses_grow(gate: Gate) -> None:
    """While the store fails it is asked again and again, after pauses that grow, for the oldest end only."""
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", key="other", run="r2")
    end_badly(gate, "r1")
    end_badly(gate, "r2")
    asked = len([call for call in gate.store.calls if call == "finish_turn"])
    for _ in range(200):
        gate.clock.advance(0.1)
    more = len([call for call in gate.store.calls if call == "finish_turn"]) - asked
    gate.store.failing.clear()
    gate.clock.advance(5)

    assert 5 <= more <= 8
    assert [state_of(gate, run) for run in ("r1", "r2")] == [RunState.DONE] * 2


def test_the_stop_tries_once_more(gate: Gate) -> None:
    """When the gateway stops it tries once more to store what it kept."""
    gate.client().send("hello")
    end_badly(gate)
    gate.store.failing.clear()

    result_of(Deferred.fromCoroutine(stop_runs(gate.runs, 1.0)))

    assert state_of(gate) is RunState.DONE
    assert gate.clock.getDelayedCalls() == []


def test_the_stop_does_not_wait_for_ever(gate: Gate) -> None:
    """What the store does not take at the stop is logged."""
    gate.client().send("hello")
    end_badly(gate)

    with Lines() as lines:
        result_of(Deferred.fromCoroutine(stop_runs(gate.runs, 1.0)))

    assert "run r1: its end was not stored before the stop" in lines.texts


# -- the collection by itself


@pytest.fixture
def odd_failures(expected_failures: list[type[BaseException]]) -> None:
    """Expect what no store should raise."""
    expected_failures.append(ZeroDivisionError)


class Shelf:
    """A store that takes ends as the test says, and sessions that are told of them."""

    def __init__(self) -> None:
        self.failing: str | None = None
        self.bad: dict[str, Exception] = {}
        self.taken: list[str] = []
        self.told: list[str] = []
        self.hang: Deferred[None] | None = None
        self.deaf = False
        """Whether the next announcement fails."""

    def finish_turn(self, end: TurnEnd) -> Any:
        run_id = end.run.run_id
        result: Deferred[Any] = Deferred()
        if run_id in self.bad:
            result.errback(self.bad[run_id])
            return result
        self.taken.append(run_id)
        if self.hang is not None:
            return self.hang.addCallback(lambda _: end.messages)
        result.callback(end.messages)
        return result

    def announce_messages(self, key: str, agent_id: str, messages: tuple[Message, ...]) -> None:
        if self.deaf:
            self.deaf = False
            raise ZeroDivisionError
        self.told += [message.message_id for message in messages]


def an_end(run_id: str, text: str = "") -> TurnEnd:
    """Return the end of a run."""
    run = RunRecord(
        run_id=run_id,
        epoch="e",
        session_key="agent:main:main",
        session_id="s",
        agent_id="main",
        origin="chat",
        actor="a",
        fingerprint="f",
        state=RunState.DONE,
        accepted_at_ms=1,
        ended_at_ms=2,
    )
    content = [{"type": "text", "text": text}]
    message = Message(message_id=f"m-{run_id}", role="assistant", content=content, timestamp_ms=2)
    event = RunEvent(run_id=run_id, epoch="e", seq=1, stream="lifecycle", data=b"{}", ts_ms=2)
    return TurnEnd(run=run, messages=(message,), events=(event,))


class Kept:
    """A collection of ends with its store and clock."""

    def __init__(self, **limits: Any) -> None:
        self.clock = FakeClock()
        self.shelf = Shelf()
        shelf: Any = self.shelf
        self.ends = Ends(store=shelf, sessions=shelf, clock=self.clock, metrics=Metrics(), **limits)


def test_the_oldest_is_given_up() -> None:
    """No more ends are kept than fit, by number and by bytes: the oldest is given up, counted and logged."""
    by_number, by_bytes = Kept(maximum=2), Kept(max_bytes=2_000)
    with Lines() as lines:
        for kept in (by_number, by_bytes):
            for run_id in ("a", "b", "c"):
                kept.ends.keep(an_end(run_id, "x" * 500))

    for kept in (by_number, by_bytes):
        assert (len(kept.ends), kept.ends.dropped, "a" in kept.ends) == (2, 1, False)
    assert lines.texts == ["run a: its end is given up, too many wait"] * 2


@pytest.mark.usefixtures("odd_failures")
def test_one_that_can_not_be_stored_does_not_hold_up_the_others() -> None:
    """While the store works, an end that it refuses does not keep the others from being stored; what is no failure of the store is given up."""  # noqa: E501
    kept = Kept()
    kept.shelf.bad = {"a": StoreError("no"), "b": ZeroDivisionError()}
    for run_id in ("a", "b", "c"):
        kept.ends.keep(an_end(run_id))
    kept.clock.advance(0.25)
    left = ("a" in kept.ends, "b" in kept.ends, kept.ends.dropped)
    kept.shelf.bad.clear()
    kept.clock.advance(5)

    assert left == (True, False, 1)
    assert kept.shelf.taken == ["c", "a"]
    assert kept.shelf.told == ["m-c", "m-a"]
    assert kept.clock.getDelayedCalls() == []


def test_one_that_is_refused_for_ever() -> None:
    """An end that a working store refuses again and again is offered after pauses that grow, as if the store failed."""  # noqa: E501
    kept = Kept()
    kept.shelf.bad = {"a": StoreError("no")}
    kept.ends.keep(an_end("a"))
    with Lines() as lines:
        kept.clock.pump([0.25] * 120)
    kept.ends.keep(an_end("b"))
    kept.clock.advance(5)

    assert 8 <= len(lines.texts) <= 10
    assert kept.shelf.taken == ["b"]
    assert "a" in kept.ends


def test_a_stop_during_a_pass() -> None:
    """A stop waits for the attempt that goes on; what comes meanwhile is tried after it."""
    kept = Kept()
    kept.shelf.hang = Deferred()
    kept.ends.keep(an_end("a"))
    kept.clock.advance(0.25)
    kept.ends.keep(an_end("b"))
    kept.ends.hold(an_end("c"))
    stopping = Deferred.fromCoroutine(kept.ends.stop())
    early = stopping.called
    hang, kept.shelf.hang = kept.shelf.hang, None
    hang.callback(None)

    assert not early
    assert result_of(stopping) is None
    assert kept.shelf.taken == ["a", "b"]
    assert list(kept.ends._ends) == ["c"]


def test_an_end_that_vanishes_during_a_pass() -> None:
    """An end that is stored otherwise while a pass goes on is passed over."""
    kept = Kept()
    kept.shelf.hang = Deferred()
    kept.ends.keep(an_end("a"))
    kept.ends.keep(an_end("b"))
    kept.clock.advance(0.25)
    kept.ends.stored("b")
    kept.shelf.hang.callback(None)

    assert kept.shelf.taken == ["a"]
    assert len(kept.ends) == 0


def test_a_listener_that_fails(expected_failures: list[type[BaseException]]) -> None:
    """What goes wrong when an answer is announced is logged; the others are stored all the same, later."""
    expected_failures.append(ZeroDivisionError)
    kept = Kept()

    kept.shelf.deaf = True
    kept.ends.keep(an_end("a"))
    kept.ends.keep(an_end("b"))
    kept.clock.advance(5)
    kept.clock.advance(5)

    assert kept.shelf.taken == ["a", "b"]
    assert kept.shelf.told == ["m-b"]


def test_the_outcome_of_an_open_run() -> None:
    """A record that is not terminal has no outcome."""
    record = an_end("a").run
    outcome = outcome_of(record)
    assert outcome is not None
    assert outcome.ended_at_ms == 2
    running = RunRecord(
        **{name: getattr(record, name) for name in record.__struct_fields__ if name != "state"},
        state=RunState.RUNNING,
    )
    assert outcome_of(running) is None


# -- the order of a session


@pytest.mark.parametrize("hangs", [False, True], ids=["at once", "in time"])
def test_a_message_comes_after_the_answer_before_it(gate: Gate, hangs: bool) -> None:
    """A message that is accepted when the store works again stands behind the answer that waited."""
    gate.client().send("one")
    end_badly(gate, text="answer to one")
    gate.store.failing.clear()
    if hangs:
        gate.store.hanging.add("finish_turn")
    sent = gate.client().send("two", run="r2")
    again = gate.client().send("three", run="r3")
    gate.store.release()
    gate.turn()

    assert sent.payload["status"] == again.payload["status"] == "started"
    assert gate.messages() == [
        ("user", "one"),
        ("assistant", "answer to one"),
        ("user", "two"),
        ("user", "three"),
    ]
    assert gate.backend.started == ["r1", "r2"]


@pytest.mark.parametrize("hangs", [False, True], ids=["at once", "in time"])
def test_a_run_that_waited_sees_the_answer_before_it(gate: Gate, hangs: bool) -> None:
    """A run whose turn comes when the store works again begins when the answer before it is stored."""
    client = gate.client()
    client.send("one")
    client.send("two", run="r2")
    gate.store.failing["start_run"] = FULL
    end_badly(gate, text="answer to one")
    gate.store.failing.clear()
    if hangs:
        gate.store.hanging.add("finish_turn")
    gate.clock.advance(1)
    gate.store.release()
    gate.turn()

    assert gate.backend.started == ["r1", "r2"]
    assert ("assistant", "answer to one") in gate.messages()
    gate.clock.pump([1] * 10)


def test_an_end_that_can_not_be_stored_holds_nothing_up(gate: Gate) -> None:
    """Where the store refuses an end and takes everything else, the session goes on without it."""
    gate.client().send("one")
    end_badly(gate)
    finish_turn = gate.store.finish_turn
    gate.store.failing.clear()
    gate.store.finish_turn = lambda end: fail(StoreError("not this one"))
    sent = gate.client().send("two", run="r2")
    gate.store.finish_turn = finish_turn

    assert sent.payload["status"] == "started"
    assert gate.backend.started == ["r1", "r2"]


@pytest.mark.parametrize("hangs", [False, True], ids=["at once", "in time"])
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("sessions.reset", {"key": "side"}),
        ("sessions.delete", {"key": "side"}),
        ("chat.send", {"sessionKey": "side", "message": "/new hi", "idempotencyKey": "r2"}),
    ],
)
def test_an_end_belongs_to_what_is_over(
    gate: Gate, method: str, params: dict[str, Any], hangs: bool
) -> None:
    """An answer that the store has not taken yet does not come into the conversation that begins."""
    client = gate.client()
    client.send("one", key="side")
    session_id = gate.live().request.session_id
    end_badly(gate, text="answer to one")
    gate.store.failing.clear()
    if hangs:
        gate.store.hanging.add("finish_turn")
    call = client.call(method, params)
    gate.store.release()
    gate.clock.pump([1] * 10)

    assert call.frame["ok"]
    stored = result_of(gate.store.list_messages(session_id, limit=10))
    assert [message.role for message in stored] == (["user"] if method == "chat.send" else [])
