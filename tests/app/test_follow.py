"""Logs of runs, followed by position."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from gateway.app import follow
from gateway.app.follow import BUSY_S, MAX_FOLLOWED, RETRY_S
from gateway.core import tail
from gateway.core.events import Event
from gateway.errors import StoreError
from gateway.model import Position, Retention, RunEvent, RunState, TurnEnd
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Gate
from tests.app.runlogs import after, begin, evict, finish, say, seqs, settle, told


def test_following_live(gate: Gate) -> None:
    """A follower at the end gets each event once, without a number, and nothing after the run's end."""
    client, other = begin(gate), gate.client()
    answer = other.ok("runs.follow", {"runId": "r1"})
    say(gate, "a ", "b")
    finish(gate)

    events = other.events("run.event")
    frames = [frame for frame in other.frames if frame["event"] == "run.event"]
    assert seqs(answer["events"]) == [1]
    assert seqs(events) == [2, 3, 4]
    assert all("seq" not in frame for frame in frames)
    assert {(e["runId"], e["epoch"]) for e in events} == {("r1", gate.runs.epoch)}
    assert set(events[0]) == {"runId", "epoch", "seq", "stream", "data", "ts"}
    assert events[-1]["data"]["phase"] == "end"
    assert told(client) == []
    assert len(gate.services.follows) == 0
    assert gate.services.follows._live == {}


def test_followers_share_one_encoding(gate: Gate) -> None:
    """An event is encoded once for all who follow its run live."""
    begin(gate)
    sent: list[Any] = []
    for protocol in (3, 4, 4):
        follower = gate.client(protocol)
        follower.ok("runs.follow", {"runId": "r1"})
        setattr(follower.connection, "deliver_direct", sent.append)  # noqa: B010
    say(gate, "a")

    assert len(sent) == 3
    assert sent[0] is sent[1] is sent[2]


def test_unfollow(gate: Gate) -> None:
    """Who unfollows gets no more; it is told whether there was anything to end."""
    client = begin(gate)
    client.ok("runs.follow", {"runId": "r1"})
    first = client.ok("runs.unfollow", {"runId": "r1"})
    second = client.ok("runs.unfollow", {"runId": "r1"})
    say(gate, "a")

    assert (first, second) == ({"ok": True, "followed": True}, {"ok": True, "followed": False})
    assert told(client) == []


def test_catching_up(gate: Gate) -> None:
    """What an answer did not hold comes as events, from the store and from memory, then live events."""
    client = begin(gate)
    say(gate, *(f"w{n} " for n in range(1200)))
    answer = client.ok("runs.follow", {"runId": "r1", "limit": 10})
    before = told(client)
    say(gate, "x ")
    settle(gate)
    say(gate, "y ")
    finish(gate)

    assert seqs(answer["events"]) == list(range(1, 11))
    assert before == []
    assert told(client) == list(range(11, 1205))
    assert len(gate.services.follows) == 0


def test_a_run_that_ends_during_the_catching_up(gate: Gate) -> None:
    """A follower that lags behind reads on to the end, which is in the store by then."""
    client = begin(gate)
    say(gate, *(f"w{n} " for n in range(250)))
    client.ok("runs.follow", {"runId": "r1", "limit": 1})
    gate.turn()
    finish(gate)
    settle(gate)

    assert told(client) == list(range(2, 253))
    assert client.events("run.event")[-1]["data"]["phase"] == "end"
    assert len(gate.services.follows) == 0
    assert not gate.clock.getDelayedCalls()


def test_a_slow_follower(gate: Gate) -> None:
    """A follower whose connection is busy is sent nothing, and catches up when it can take it again."""
    client = begin(gate)
    client.ok("runs.follow", {"runId": "r1"})
    client.connection.waiting = True
    say(gate, "a ", "b ")
    held = told(client)
    client.connection.waiting = False
    gate.clock.advance(BUSY_S)
    caught = told(client)
    say(gate, "c")
    finish(gate)

    assert held == []
    assert caught == [2, 3]
    assert told(client) == [2, 3, 4, 5]


def test_many_follows_that_catch_up_on_one_connection(gate: Gate) -> None:
    """One page is read and sent at a time, and one timer looks whether a busy connection can take more."""
    runs = [f"r{number}" for number in range(MAX_FOLLOWED)]
    for run in runs:
        begin(gate, run, run).leave()
        say(gate, "a ", run=run)
        finish(gate, run)
    client = gate.client()
    connection, send = client.connection, client.connection.deliver_direct
    for run in runs:
        client.ok("runs.follow", {"runId": run, "limit": 1})

    def fill(event: Event) -> None:
        send(event)
        connection.waiting = True

    connection.deliver_direct = fill  # type: ignore[method-assign]
    gate.store.hanging.add("list_events")
    settle(gate)
    reads = len(gate.store.held)
    gate.store.release()
    settle(gate)
    sent, timers = len(client.frames), len(gate.clock.getDelayedCalls())
    connection.deliver_direct = send  # type: ignore[method-assign]
    connection.waiting = False
    settle(gate, BUSY_S)
    for _ in runs:
        settle(gate)

    assert (reads, sent, timers) == (1, 2, 1)
    assert all(told(client, run) == [2, 3] for run in runs)
    assert len(gate.services.follows) == 0


def test_a_store_that_fails_while_a_follower_catches_up(gate: Gate) -> None:
    """It is asked again after a second, nothing is missing, and the log tells it once."""
    client = begin(gate)
    say(gate, *(f"w{n} " for n in range(40)))
    finish(gate)
    client.ok("runs.follow", {"runId": "r1", "limit": 5})
    gate.store.failing["list_events"] = StoreError("locked")
    with Lines() as lines:
        settle(gate, RETRY_S)
    held = told(client)
    gate.store.failing.clear()
    gate.clock.advance(RETRY_S)
    settle(gate)

    assert held == []
    assert lines.texts == ["run r1 was not read: locked"]
    assert told(client) == list(range(6, 43))


def test_a_follower_that_leaves(gate: Gate) -> None:
    """A connection that goes takes its follows along: live ones, and those that are reading."""
    client = begin(gate)
    begin(gate, "r2", "other")
    say(gate, *(f"w{n} " for n in range(5)))
    finish(gate)
    client.ok("runs.follow", {"runId": "r1", "limit": 1})
    client.ok("runs.follow", {"runId": "r2"})
    gate.store.hanging.add("list_events")
    gate.turn()
    client.leave()
    gate.store.release()
    finish(gate, "r2")
    settle(gate)

    assert len(gate.services.follows) == 0
    assert told(client) == []
    assert not gate.clock.getDelayedCalls()


def test_a_connection_that_ends_while_it_is_asked_for(gate: Gate) -> None:
    """What was being read for a connection that is gone ends with it, and follows nothing."""
    client = begin(gate)
    say(gate, "a")
    finish(gate)
    gate.store.hanging.add("list_events")
    gone, late = gate.client(), gate.client()
    call = gone.call("runs.follow", {"runId": "r1"})
    other = late.call("runs.follow", {"runId": "r1", "limit": 1})
    call.cancel()
    late.leave()
    gate.store.release()

    assert call.frames == []
    assert other.payload["status"] == "replay"
    assert len(gate.services.follows) == 0
    assert told(client) == []


def test_a_connection_that_ends_by_what_it_is_sent(gate: Gate) -> None:
    """A follow may end within the sending of its own event."""
    live, reading = begin(gate), gate.client()
    live.ok("runs.follow", {"runId": "r1"})
    say(gate, *(f"w{n} " for n in range(5)))
    reading.ok("runs.follow", {"runId": "r1", "limit": 1})
    for client in (live, reading):
        client.connection.deliver_direct = lambda event, c=client: c.leave()  # type: ignore[method-assign,misc]
    settle(gate)
    finish(gate)
    settle(gate)

    assert len(gate.services.follows) == 0
    assert gate.services.follows._live == {}


def test_a_connection_that_ends_by_what_another_is_sent(gate: Gate) -> None:
    """Where an event to one follower has another closed, nothing stays behind of that one, busy as it was."""
    first, second = begin(gate), gate.client()
    for client in (first, second):
        client.ok("runs.follow", {"runId": "r1"})

    def relieve(event: Any) -> None:
        second.connection.waiting = True
        second.leave()

    first.connection.deliver_direct = relieve  # type: ignore[method-assign]
    say(gate, "a")

    assert told(second) == []
    assert len(gate.services.follows) == 1
    finish(gate)
    assert not gate.clock.getDelayedCalls()


def test_following_again(gate: Gate) -> None:
    """What is asked for again stands for what was asked for before; nothing comes twice."""
    client = begin(gate)
    say(gate, *(f"w{n} " for n in range(30)))
    client.ok("runs.follow", {"runId": "r1", "limit": 1})
    client.ok("runs.follow", {"runId": "r1", **after(gate, 29)})
    settle(gate)

    assert told(client) == []
    assert len(gate.services.follows) == 1


def test_two_requests_for_one_run(gate: Gate) -> None:
    """Of two requests that are read at the same time, the one answered last stands."""
    client = begin(gate)
    say(gate, *(f"w{n} " for n in range(30)))
    finish(gate)
    gate.store.hanging.add("list_events")
    calls = [client.call("runs.follow", {"runId": "r1", "limit": n}) for n in (10, 20)]
    gate.store.release()
    settle(gate)

    assert [len(call.payload["events"]) for call in calls] == [10, 20]
    assert told(client) == list(range(21, 33))


def test_too_many_follows(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection may follow so many runs, and all together so many; then it is told so."""
    monkeypatch.setattr(follow, "MAX_FOLLOWED", 2)
    client, other = begin(gate), gate.client()
    for name in ("r2", "r3"):
        begin(gate, name, name)
    for name in ("r1", "r2", "r1"):
        client.ok("runs.follow", {"runId": name})
    error = client.refused("runs.follow", {"runId": "r3"})
    monkeypatch.setattr(follow, "MAX_FOLLOWS", 2)
    full = other.refused("runs.follow", {"runId": "r1"})
    client.leave()
    other.ok("runs.follow", {"runId": "r1"})

    assert error["code"] == "INVALID_REQUEST"
    assert "at most 2 runs" in error["message"]
    assert (full["code"], full["retryable"]) == ("UNAVAILABLE", True)


def test_the_sweep_finds_nothing(gate: Gate) -> None:
    """A sweep leaves the follows of connections that are there, and would drop those of others."""
    client = begin(gate)
    client.ok("runs.follow", {"runId": "r1"})
    first = gate.services.follows.sweep(0)
    gate.services.hub.remove(client.connection)
    second = gate.services.follows.sweep(0)

    assert (first, second) == (0, 1)


# -- what can not be carried on


def test_a_hole_that_opens_while_a_follower_catches_up(gate: Gate) -> None:
    """The end is sent, by which the client sees that something is missing; asking again gives a gap."""
    client = begin(gate)
    say(gate, *(f"w{n} " for n in range(30)))
    finish(gate)
    client.ok("runs.follow", {"runId": "r1", "limit": 1})
    evict(gate, 0)
    settle(gate)

    answer = client.ok("runs.follow", {"runId": "r1", **after(gate, 1)})
    (event,) = client.events("run.event")
    assert event["seq"] == 32
    assert event["data"]["phase"] == "end"
    assert answer["status"] == "gap"
    assert len(gate.services.follows) == 0


def test_a_store_that_fails_behind_a_hole(gate: Gate) -> None:
    """The end of a log is sent although the store fails just when a hole was found before it."""
    client = begin(gate)
    say(gate, *(f"w{n} " for n in range(30)))
    finish(gate)
    client.ok("runs.follow", {"runId": "r1", "limit": 1})
    evict(gate, 0)
    list_events = gate.store.list_events

    def once(*args: Any, **how: Any) -> Any:
        found = list_events(*args, **how)
        gate.store.failing["list_events"] = StoreError("locked")
        return found

    gate.store.list_events = once
    settle(gate)
    held = told(client)
    gate.store.failing.clear()
    gate.store.list_events = list_events
    settle(gate, RETRY_S)

    assert held == []
    assert told(client) == [32]
    assert len(gate.services.follows) == 0


def test_a_hole_in_a_live_log_while_a_follower_catches_up(gate: Gate) -> None:
    """The newest event is sent, then the live ones."""
    client = begin(gate)
    client.ok("runs.follow", {"runId": "r1"})
    client.connection.waiting = True
    gate.runs.log._max_waiting = 0
    say(gate, "lost ")
    gate.runs.log._max_waiting = 10_000
    gate.lost = 1
    say(gate, *(f"w{n} " for n in range(tail.MAX_EVENTS)))
    client.connection.waiting = False
    settle(gate, BUSY_S)
    say(gate, "on")

    last = tail.MAX_EVENTS + 2
    assert told(client) == [last, last + 1]


def test_a_run_that_was_forgotten(gate: Gate) -> None:
    """A follow of a run that is no longer known ends."""
    client = begin(gate)
    say(gate, *(f"w{n} " for n in range(30)))
    finish(gate)
    client.ok("runs.follow", {"runId": "r1", "limit": 1})
    result_of(gate.store.apply_retention(Retention(ended_before_ms=1 << 50)))
    settle(gate)

    assert told(client) == []
    assert len(gate.services.follows) == 0


def test_a_run_that_nobody_drives_yet(gates: Callable[..., Gate]) -> None:
    """A run that a crash left open is followed until it is ended in its place."""
    gate = gates()
    begin(gate)
    say(gate, "a ", "b")
    again = gate.restarted()
    client = again.client()
    answer = client.ok("runs.follow", {"runId": "r1", **after(gate, 1)})
    settle(again, RETRY_S)
    before = told(client)
    result_of(Deferred.fromCoroutine(again.runs.recover()))
    settle(again, RETRY_S)
    again.close()

    assert (answer["status"], seqs(answer["events"])) == ("replay", [2, 3])
    assert before == []
    assert told(client) == [4]
    assert client.events("run.event")[0]["data"]["phase"] == "error"
    assert len(again.services.follows) == 0


def test_a_log_that_is_taken_over_while_it_is_looked_at(gates: Callable[..., Gate]) -> None:
    """A follower hears of the end in the epoch that the log has by then, and of no other end."""
    gate = gates()
    begin(gate)
    say(gate, "a ")
    again = gate.restarted()
    client = again.client()
    client.ok("runs.follow", {"runId": "r1"})
    settle(again)
    get_run = again.store.get_run

    def later(*args: Any) -> Any:
        again.store.get_run = get_run
        Deferred.fromCoroutine(again.runs.recover())
        again.clock.advance(0.2)
        return get_run(*args)

    again.store.get_run = later
    settle(again, RETRY_S)
    again.close()

    ends = [(event["epoch"], event["seq"]) for event in client.events("run.event")]
    assert ends == [(again.runs.epoch, 3)]


def test_a_run_that_is_driven_again_in_another_epoch(gates: Callable[..., Gate]) -> None:
    """A follower sees by the epoch that another log has begun."""
    gate = gates()
    begin(gate)
    say(gate, *(f"w{n} " for n in range(5)))
    again = gate.restarted()
    client = again.client()
    client.ok("runs.follow", {"runId": "r1", "limit": 1})

    def taken_over(record: Any) -> Any:
        return msgspec.structs.replace(record, epoch="new", state=RunState.ACCEPTED)

    record = result_of(again.store.update_run("r1", taken_over))
    settle(again, RETRY_S)
    waiting, follows = told(client), len(again.services.follows)
    ended = {"state": RunState.DONE, "ended_at_ms": 1, "last_seq": 1}
    end = RunEvent(run_id="r1", epoch="new", seq=1, stream="lifecycle", data=b"{}", ts_ms=1)
    run = msgspec.structs.replace(record, **ended)
    result_of(again.store.finish_turn(TurnEnd(run=run, events=(end,))))
    settle(again, RETRY_S)
    again.close()

    assert (waiting, follows) == ([], 1)
    assert [(e["epoch"], e["seq"]) for e in client.events("run.event")] == [("new", 1)]
    assert len(again.services.follows) == 0


# -- whatever the order


class Held:
    """A store whose reads of events wait until they are let go on, one by one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.held: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def list_events(self, *args: Any, **how: Any) -> Deferred[Any]:
        read: Deferred[Any] = Deferred()
        real = self._inner.list_events

        def go() -> None:
            real(*args, **how).addBoth(lambda found: None if read.called else read.callback(found))

        self.held.append(go)
        return read

    def release(self) -> None:
        if self.held:
            self.held.pop(0)()


@pytest.mark.parametrize("ends_after", [2, 4])
def test_every_order(gate: Gate, ends_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer and events are the log, whatever happens between the read and the switch to live events."""
    monkeypatch.setattr(tail, "MAX_EVENTS", 1)
    monkeypatch.setattr(follow, "PAGE_EVENTS", 2)
    store = Held(gate.store)
    gate.services.follows._reader._store = store  # type: ignore[assignment]
    for order in product(("say", "release", "turn"), repeat=4):
        run = "-".join(order)
        begin(gate, run, run).leave()
        say(gate, "a ", "b ", "c ", "d ", run=run)
        client = gate.client()
        call = client.call("runs.follow", {"runId": run, "limit": 2})
        for number, step in enumerate(order, 1):
            if step == "release":
                store.release()
            elif step == "turn":
                gate.turn()
            elif number <= ends_after:
                say(gate, f"{number} ", run=run)
            if number == ends_after:
                finish(gate, run)
        for _ in range(12):
            store.release()
            gate.clock.advance(0.1)

        answer = call.payload
        assert (answer["status"], seqs(answer["events"])) == ("replay", [1, 2]), run
        got = [*answer["events"], *client.events("run.event")]
        assert seqs(got) == list(range(1, len(got) + 1)), run
        assert got[-1]["data"]["phase"] == "end", run
        assert len(gate.services.follows) == 0, run
        client.leave()


def test_an_output_that_comes_again(gate: Gate) -> None:
    """What a follower has is not sent again, and what does not follow is read from the log."""
    client = begin(gate)
    outputs = gate.record()
    client.ok("runs.follow", {"runId": "r1"})
    say(gate, "a ", "b ")
    gate.services.follows(outputs[0])
    gate.services.follows._live["r1"][client.connection.conn_id].seq = 1
    say(gate, "c ")
    settle(gate)

    assert told(client) == [2, 3, 2, 3, 4]


def test_another_epoch_that_has_no_event_yet(gate: Gate) -> None:
    """A follower that stands in an older epoch gets the first event of the new one."""
    begin(gate)
    client = gate.client()
    client.send("next", run="r2")
    position = Position(epoch="old", seq=3)
    gate.services.follows._enter(client.connection.conn_id, {"r2": position})
    settle(gate)
    finish(gate)

    assert [(e["epoch"], e["seq"]) for e in client.events("run.event")] == [(gate.runs.epoch, 1)]
