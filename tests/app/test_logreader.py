"""Logs of runs, read by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.app import follow, sessions
from gateway.app.logreader import PATIENCE_S
from gateway.core import tail
from gateway.errors import StoreError
from gateway.model import RunState
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Client, Gate
from tests.app.runlogs import after, begin, evict, finish, say, seqs, settle, told, words_of


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
    assert "snapshot" not in whole
    assert "snapshot" not in end


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


def answered_long_ago(gate: Gate, since: int) -> Client:
    """Let a run answer and lose its log, and others go since."""
    client = begin(gate)
    say(gate, "the first answer")
    finish(gate)
    for number in range(since):
        client.send("again", run=f"more{number}")
        gate.turn()
        finish(gate, f"more{number}")
    evict(gate, 0)
    return client


def test_an_answer_long_ago(gate: Gate) -> None:
    """The answer of a run is found in its transcript however much was said since."""
    client = answered_long_ago(gate, 60)

    first = client.ok("runs.read", {"runId": "r1"})
    silent = client.ok("runs.read", {"runId": "more3"})

    assert first["snapshot"]["text"] == "the first answer"
    assert silent["snapshot"] == {"text": "", "state": "done"}


def test_an_answer_too_long_ago(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is looked for in so many pages of its transcript, and not for ever."""
    monkeypatch.setattr(sessions, "ANSWER_PAGE", 2)
    monkeypatch.setattr(sessions, "ANSWER_PAGES", 2)
    client = answered_long_ago(gate, 4)

    assert client.ok("runs.read", {"runId": "r1"})["snapshot"] == {"text": "", "state": "done"}


def test_a_reader_ahead_of_the_store(gates: Callable[..., Gate]) -> None:
    """After a crash that lost the newest events, the snapshot holds what the log still tells."""
    gate = gates()
    begin(gate)
    say(gate, "kept ", "too")
    gate.live().sink.replace("anew")
    gate.clock.advance(0.2)
    say(gate, ", and on")
    again = gate.restarted()
    open_ = again.client().ok("runs.read", {"runId": "r1", **after(gate, 50)})
    result_of(Deferred.fromCoroutine(again.runs.recover()))
    answer = again.client().ok("runs.read", {"runId": "r1", **after(gate, 50)})
    again.close()

    assert answer["status"] == "gap"
    assert answer["snapshot"] == {"text": "anew, and on", "state": "failed"}
    assert open_["snapshot"]["text"] == "anew, and on"
    assert not RunState(open_["snapshot"]["state"]).terminal


def test_what_is_left_of_a_broken_log(gates: Callable[..., Gate]) -> None:
    """Where neither transcript nor log has the whole answer, the snapshot holds its beginning."""
    gate = gates()
    begin(gate)
    say(gate, "kept ")
    gate.runs.log._max_waiting = 0
    gate.lost = 1
    say(gate, "lost ")
    gate.runs.log._max_waiting = 10
    say(gate, "later")
    again = gate.restarted()
    result_of(Deferred.fromCoroutine(again.runs.recover()))
    with Lines() as lines:
        answer = again.client().ok("runs.read", {"runId": "r1", **after(gate, 50)})
    again.close()

    assert answer["snapshot"] == {"text": "kept ", "state": "failed"}
    assert lines.texts == ["the log of run r1 has a hole"]


def test_a_run_that_is_accepted_while_it_is_looked_for(gate: Gate) -> None:
    """A run that was not there when the store was asked, and is by the answer, is known."""
    client = gate.client()
    gate.store.hanging.add("event_span")
    call = client.call("runs.read", {"runId": "r1"})
    begin(gate)
    gate.store.release()

    assert seqs(call.payload["events"]) == [1]


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


def test_a_log_whose_end_was_lost(gate: Gate, expected_failures: list[type[BaseException]]) -> None:
    """The log of a run whose end the store refused is whole: the end is kept until it is taken."""
    expected_failures.append(StoreError)
    client = begin(gate)
    say(gate, "one ")
    gate.store.failing["finish_turn"] = StoreError("disk full")
    finish(gate)

    answer = client.ok("runs.read", {"runId": "r1"})

    assert (answer["status"], seqs(answer["events"])) == ("replay", [1, 2, 3])


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
    """An answer stays far below the largest message; what is beyond comes with the next read or as events."""
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
