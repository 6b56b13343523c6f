"""Logs of runs, read and followed by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from gateway.app import follow
from gateway.app.follow import BUSY_S, RETRY_S
from gateway.app.logreader import PATIENCE_S
from gateway.core import tail
from gateway.errors import StoreError
from gateway.model import Retention, RunEvent, RunState, TurnEnd
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import READ, Client, Gate


def after(gate: Gate, seq: int, epoch: str | None = None) -> dict[str, Any]:
    """Return a position as params."""
    return {"after": {"epoch": epoch or gate.runs.epoch, "seq": seq}}


def begin(gate: Gate, run: str = "r1", key: str = "main") -> Client:
    """Start a run; return the client that did."""
    client = gate.client()
    client.send("hello", key=key, run=run)
    gate.turn()
    return client


def say(gate: Gate, *words: str, run: str = "r1") -> None:
    """Let a run make one event of each word."""
    for word in words:
        gate.live(run).sink.text(word)
        gate.clock.advance(0.2)


def finish(gate: Gate, run: str = "r1") -> None:
    gate.live(run).end()
    gate.turn()


def settle(gate: Gate, seconds: float = 0) -> None:
    """Let everything happen that is due."""
    for _ in range(12):
        gate.clock.advance(seconds)


def seqs(items: list[dict[str, Any]]) -> list[int]:
    return [item["seq"] for item in items]


def told(client: Client, run: str = "r1") -> list[int]:
    """Return the numbers of the ``run.event`` events of a run."""
    return seqs([each for each in client.events("run.event") if each["runId"] == run])


def words_of(items: list[dict[str, Any]]) -> str:
    return "".join(i["data"]["delta"] for i in items if i["stream"] == "assistant")


def evict(gate: Gate, keep: int) -> None:
    """Remove the oldest events of ended runs until so many bytes are left."""
    result_of(gate.store.apply_retention(Retention(log_bytes=keep)))


# -- reading


def test_reading_a_live_run(gate: Gate) -> None:
    """Its log is read from memory, from any position; at its end there is nothing to read."""
    client = begin(gate)
    say(gate, "a ", "b ", "c")
    epoch = gate.runs.epoch

    whole = client.ok("runs.read", {"runId": "r1"})
    part = client.ok("runs.read", {"runId": "r1", **after(gate, 2), "limit": 1})
    end = client.ok("runs.read", {"runId": "r1", **after(gate, 4)})

    assert (whole["status"], seqs(whole["events"])) == ("replay", [1, 2, 3, 4])
    assert whole["next"] == {"epoch": epoch, "seq": 4}
    assert whole["events"][1] == {
        "seq": 2,
        "stream": "assistant",
        "data": {"delta": "a "},
        "ts": whole["events"][1]["ts"],
    }
    assert (seqs(part["events"]), part["next"]["seq"]) == ([3], 3)
    assert (end["status"], end["events"], end["next"]["seq"]) == ("up-to-date", [], 4)
    assert "snapshot" not in whole and "snapshot" not in end


def test_reading_a_run_that_has_ended(gate: Gate) -> None:
    """Its log is read from the store, page by page, and is the one that was made."""
    client = begin(gate)
    say(gate, *(f"w{n} " for n in range(150)))
    finish(gate)

    read: list[dict[str, Any]] = []
    position: dict[str, Any] = {}
    while True:
        answer = client.ok("runs.read", {"runId": "r1", "limit": 70, **position})
        if answer["status"] == "up-to-date":
            break
        read += answer["events"]
        position = {"after": answer["next"]}

    assert seqs(read) == list(range(1, 153))
    assert words_of(read) == "".join(f"w{n} " for n in range(150))
    assert read[-1]["data"]["phase"] == "end"


def test_an_unknown_run(gate: Gate) -> None:
    """A run that never was, or was forgotten, is unknown, and nothing is followed."""
    client = gate.client()

    answer = client.ok("runs.follow", {"runId": "nobody"})

    assert answer == {"runId": "nobody", "status": "unknown", "events": []}
    assert len(gate.services.follows) == 0


def test_a_gap_in_a_live_run(gate: Gate) -> None:
    """Another epoch, or a position that is not there yet, is answered with all that was said so far."""
    client = begin(gate)
    say(gate, "so ", "far")

    for position in (after(gate, 2, "another"), after(gate, 9)):
        answer = client.ok("runs.follow", {"runId": "r1", **position})
        assert answer["status"] == "gap"
        assert answer["snapshot"] == {"text": "so far", "state": "running"}
        assert answer["next"] == {"epoch": gate.runs.epoch, "seq": 3}
        assert (answer["events"], answer["evictedThrough"]) == ([], 0)
    say(gate, " on")

    assert told(client) == [4]


def test_a_log_that_was_evicted(gate: Gate) -> None:
    """Where the beginning of a log is gone, the transcript tells the answer, and the record the state."""
    client = begin(gate)
    say(gate, "one ", "two ", "three")
    finish(gate)
    whole = gate.store.event_span("r1")
    evict(gate, 450)
    span = result_of(gate.store.event_span("r1"))

    gap = client.ok("runs.follow", {"runId": "r1", **after(gate, span.first_seq - 2)})
    kept = client.ok("runs.read", {"runId": "r1", **after(gate, span.first_seq - 1)})
    evict(gate, 0)
    nothing = client.ok("runs.read", {"runId": "r1"})

    assert result_of(whole).first_seq == 1 < span.first_seq <= span.last_seq == 5
    assert gap["status"] == nothing["status"] == "gap"
    assert gap["snapshot"] == {"text": "one two three", "state": "done"}
    assert nothing["snapshot"] == gap["snapshot"]
    assert gap["evictedThrough"] == span.first_seq - 1
    assert nothing["evictedThrough"] == 5
    assert gap["next"]["seq"] == nothing["next"]["seq"] == 5
    assert seqs(kept["events"]) == list(range(span.first_seq, 6))
    assert len(gate.services.follows) == 0


def test_an_answer_long_ago(gate: Gate) -> None:
    """The answer of a run is found in its transcript however much was said since."""
    client = begin(gate)
    say(gate, "the first answer")
    finish(gate)
    for number in range(60):
        client.send("again", run=f"more{number}")
        gate.turn()
        finish(gate, f"more{number}")
    evict(gate, 0)

    first = client.ok("runs.read", {"runId": "r1"})
    silent = client.ok("runs.read", {"runId": "more3"})

    assert first["snapshot"]["text"] == "the first answer"
    assert silent["snapshot"] == {"text": "", "state": "done"}


def test_a_reader_ahead_of_the_store(gates: Callable[..., Gate]) -> None:
    """After a crash that lost the newest events, the snapshot holds what the log still tells."""
    gate = gates()
    begin(gate)
    say(gate, "kept ", "too")
    gate.live().sink.replace("anew")
    gate.clock.advance(0.2)
    say(gate, ", and on")
    again = gate.restarted()
    result_of(Deferred.fromCoroutine(again.runs.recover()))
    answer = again.client().ok("runs.read", {"runId": "r1", **after(gate, 50)})
    again.close()

    assert answer["status"] == "gap"
    assert answer["snapshot"] == {"text": "anew, and on", "state": "failed"}


def test_a_log_with_a_hole(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is never read over a hole: up to it, then a gap; also for a run that goes on."""
    client = begin(gate)
    gate.runs.log._max_waiting = 0
    say(gate, "lost ")
    gate.runs.log._max_waiting = 100
    gate.lost = 1
    monkeypatch.setattr(tail, "MAX_EVENTS", 2)
    say(gate, "a ", "b ", "c ")

    live = client.ok("runs.follow", {"runId": "r1", **after(gate, 1)})
    before = client.ok("runs.read", {"runId": "r1"})
    say(gate, "d")
    finish(gate)
    ended = client.ok("runs.read", {"runId": "r1", **after(gate, 1)})
    behind = client.ok("runs.read", {"runId": "r1", **after(gate, 2)})

    assert (live["status"], live["evictedThrough"]) == ("gap", 2)
    assert live["snapshot"] == {"text": "lost a b c ", "state": "running"}
    assert (before["status"], seqs(before["events"])) == ("replay", [1])
    assert told(client) == [6, 7]
    assert (ended["status"], ended["snapshot"]["text"]) == ("gap", "lost a b c d")
    assert seqs(behind["events"]) == [3, 4, 5, 6, 7]


def test_a_log_whose_end_was_lost(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A run whose end the store refused is known as far as the store has it."""
    expected_failures.append(StoreError)
    client = begin(gate)
    say(gate, "one ")
    gate.store.failing["finish_turn"] = StoreError("disk full")
    finish(gate)

    answer = client.ok("runs.read", {"runId": "r1"})

    assert (answer["status"], seqs(answer["events"])) == ("replay", [1, 2])


def test_an_end_on_its_way(gate: Gate) -> None:
    """While the store takes its time with an end, the log is whole all the same."""
    client = begin(gate)
    say(gate, "one ")
    gate.store.hanging.add("finish_turn")
    finish(gate)
    unshown = client.ok("runs.read", {"runId": "r1"})
    gate.clock.advance(1)  # the end is shown without the store

    whole = client.ok("runs.read", {"runId": "r1"})
    gap = client.ok("runs.read", {"runId": "r1", **after(gate, 9)})
    gate.store.release()
    stored = client.ok("runs.read", {"runId": "r1"})

    assert seqs(unshown["events"]) == [1, 2]
    assert seqs(whole["events"]) == [1, 2, 3] == seqs(stored["events"])
    assert gap["snapshot"] == {"text": "one ", "state": "done"}


def test_a_store_that_fails(gate: Gate) -> None:
    """A log that can not be read is refused for now; one in memory is answered all the same."""
    client = begin(gate)
    say(gate, "one ")
    begin(gate, "r2", "other")
    finish(gate)
    gate.store.failing |= {"get_run": StoreError("locked"), "list_events": StoreError("locked")}

    with Lines() as lines:
        error = client.refused("runs.read", {"runId": "r1"})
    live = client.ok("runs.read", {"runId": "r2"})

    assert (error["code"], error["retryable"]) == ("UNAVAILABLE", True)
    assert lines.texts == ["run r1 was not read: locked"]
    assert seqs(live["events"]) == [1]


def test_a_store_that_does_not_answer(gate: Gate) -> None:
    """A read ends after a few seconds, whatever the store does."""
    client = begin(gate)
    finish(gate)
    gate.store.hanging.add("list_events")
    call = client.call("runs.read", {"runId": "r1"})
    waiting = list(call.frames)
    gate.clock.advance(PATIENCE_S)

    assert waiting == []
    assert call.error["code"] == "UNAVAILABLE"


def test_an_answer_is_bounded_in_bytes(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer stays far below the largest message; what is beyond comes with the next read, or as events."""
    monkeypatch.setattr(follow, "ANSWER_BYTES", 3000)
    client = begin(gate)
    say(gate, *("x" * 1000 for _ in range(6)))

    answer = client.ok("runs.follow", {"runId": "r1"})
    settle(gate)

    assert seqs(answer["events"]) == [1, 2, 3]
    assert told(client) == [4, 5, 6, 7]


def test_a_single_large_event_is_answered(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is larger than the bound comes alone."""
    monkeypatch.setattr(follow, "ANSWER_BYTES", 500)
    client = begin(gate)
    say(gate, "x" * 1000)

    answer = client.ok("runs.read", {"runId": "r1", **after(gate, 1)})

    assert seqs(answer["events"]) == [2]


# -- following


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


def test_followers_share_one_encoding(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event is encoded once for all who follow its run live."""
    begin(gate)
    followers = [gate.client(protocol) for protocol in (3, 4, 4)]
    for each in followers:
        each.ok("runs.follow", {"runId": "r1"})
    made = []
    real = follow._event
    monkeypatch.setattr(follow, "_event", lambda *args: made.append(args) or real(*args))
    say(gate, "a")

    assert [told(each) for each in followers] == [[2]] * 3
    assert len(made) == 1


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


def test_a_store_that_fails_while_a_follower_catches_up(gate: Gate) -> None:
    """It is asked again after a second, and nothing is missing."""
    client = begin(gate)
    say(gate, *(f"w{n} " for n in range(40)))
    finish(gate)
    client.ok("runs.follow", {"runId": "r1", "limit": 5})
    gate.store.failing["list_events"] = StoreError("locked")
    settle(gate)
    held = told(client)
    gate.store.failing.clear()
    gate.clock.advance(RETRY_S)
    settle(gate)

    assert held == []
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


# -- resume


def test_resume(gate: Gate) -> None:
    """One call follows runs from their positions and watches sessions, by their canonical keys."""
    begin(gate)
    begin(gate, "r2", "other")
    say(gate, "a ", "b ")
    client = gate.client(scopes=READ)
    answer = client.ok(
        "connection.resume",
        {
            "runs": [{"runId": "r1", **after(gate, 2)}, {"runId": "r2"}, {"runId": "nobody"}],
            "sessions": ["main"],
        },
    )
    say(gate, "c")
    gate.client().send("more", run="r3")

    first, second, third = answer["runs"]
    assert (first["runId"], seqs(first["events"])) == ("r1", [3])
    assert (second["runId"], seqs(second["events"])) == ("r2", [1])
    assert third == {"runId": "nobody", "status": "unknown", "events": []}
    assert answer["sessions"] == ["agent:main:main"]
    assert told(client) == [4]
    assert gate.services.hub.watches(client.connection.conn_id, "agent:main:main")
    assert gate.client().ok("connection.resume") == {"runs": [], "sessions": []}


def test_events_come_after_the_answer(gate: Gate) -> None:
    """What happens to one run while another is read for the answer comes after it, and is not missing."""
    client = begin(gate)
    begin(gate, "r2", "other")
    finish(gate)
    gate.store.hanging.add("list_events")
    wishes = [{"runId": "r2"}, {"runId": "r1"}]
    client.ok("runs.follow", {"runId": "r2"})
    call = client.call("connection.resume", {"runs": wishes})
    say(gate, "meanwhile", run="r2")
    before = told(client, "r2")
    gate.store.release()
    settle(gate)

    assert before == []
    assert [run["next"]["seq"] for run in call.payload["runs"]] == [1, 2]
    assert told(client, "r2") == [2]


def test_resume_is_bounded_as_a_whole(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """All answers together stay below the bound; snapshots and events beyond it come afterwards."""
    monkeypatch.setattr(follow, "ANSWER_BYTES", 3000)
    client = begin(gate)
    for name in ("r2", "r3", "r4"):
        begin(gate, name, name)
    for name in ("r1", "r2", "r3", "r4"):
        say(gate, *("é" * 1000 for _ in range(3)), run=name)
    old = {"after": {"epoch": "old", "seq": 7}}
    wishes = [{"runId": "r1"}, {"runId": "r2"}, {"runId": "r3", **old}]
    wishes.append({"runId": "r4", **after(gate, 9)})
    one, two, three, four = client.ok("connection.resume", {"runs": wishes})["runs"]
    settle(gate)
    asked = client.ok("runs.follow", {"runId": "r3", **old})

    assert seqs(one["events"]) == [1, 2]
    assert (two["status"], seqs(two["events"])) == ("replay", [1])
    assert (three["status"], three["next"]) == ("replay", old["after"])
    assert four["status"] == "gap", "nothing would tell it later"
    assert told(client, "r1") == [3, 4]
    assert told(client, "r2") == [2, 3, 4]
    assert told(client, "r3") == [4], "of another epoch: the client asks again"
    assert asked["snapshot"]["text"] == "é" * 3000


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("runs.read", {"runId": ""}),
        ("runs.read", {"runId": "x" * 2000}),
        ("runs.read", {"runId": "r", "limit": 0}),
        ("runs.read", {"runId": "r", "limit": 1001}),
        ("runs.follow", {"runId": "r", "after": {"epoch": "e", "seq": -1}}),
        ("runs.follow", {"runId": "r", "after": {"epoch": "e"}}),
        ("runs.unfollow", {}),
        ("connection.resume", {"sessions": ["  "]}),
        ("connection.resume", {"runs": [{"runId": "r"}] * 201}),
    ],
)
def test_bad_params(gate: Gate, method: str, params: dict[str, Any]) -> None:
    """What makes no sense is refused."""
    assert gate.client().refused(method, params)["code"] == "INVALID_REQUEST"


def test_who_may_read(gate: Gate) -> None:
    """Reading takes operator.read; a device may not."""
    begin(gate)
    pairing = gate.client(scopes=("operator.pairing",))
    for method in ("runs.read", "runs.follow", "runs.unfollow", "connection.resume"):
        params = {} if method == "connection.resume" else {"runId": "r1"}
        assert pairing.refused(method, params)["message"] == "missing scope: operator.read"
        assert gate.node().refused(method, params)["code"] == "INVALID_REQUEST"
        assert gate.client(3, scopes=READ).call(method, params).frame["ok"]


def test_openclaws_clients_see_nothing_new(gate: Gate) -> None:
    """Who does not follow gets no run.event."""
    client = begin(gate)
    say(gate, "a")
    finish(gate)

    assert client.events("run.event") == []
    assert client.events("chat")


def test_answers_are_counted(gate: Gate) -> None:
    """How positions were answered is a metric."""
    client = begin(gate)
    client.ok("runs.read", {"runId": "r1"})
    client.ok("runs.read", {"runId": "nobody"})

    text = gate.wiring.metrics.render().decode()
    assert 'gateway_log_reads_total{status="replay"} 1.0' in text
    assert 'gateway_log_reads_total{status="unknown"} 1.0' in text
