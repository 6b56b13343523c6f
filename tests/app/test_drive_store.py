"""The end of a run, whatever the store does."""

from __future__ import annotations

import gc
from typing import Any
from weakref import ref

from gateway.app.ends import STORE_PATIENCE_S
from gateway.errors import BackendError, BackendErrorKind, StoreError
from gateway.model import RunState, Usage
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Gate


def test_the_end_waits_for_the_store_a_second(gate: Gate) -> None:
    """An end that the store does not take is announced after a second, and once only."""
    client = gate.client()
    client.send("hello")
    gate.live().sink.text("answer")
    gate.store.hanging.add("finish_turn")
    gate.live().end()

    gate.clock.advance(STORE_PATIENCE_S - 0.01)
    before = client.ends()
    gate.clock.advance(0.02)
    after = client.ends()
    gate.store.release()

    assert before == ([], [])
    assert after == client.ends() == (["final"], ["end"])
    assert gate.messages()[-1] == ("assistant", "answer")


def test_a_late_store_still_tells_of_the_message(gate: Gate) -> None:
    """Who follows a session gets the answer's message when the store has it, if that is late."""
    client = gate.client()
    client.ok("sessions.messages.subscribe", {"key": "main"})
    client.send("hello")
    gate.live().sink.text("answer")
    gate.store.hanging.add("finish_turn")
    gate.live().end()
    gate.clock.advance(2)
    before = len(client.events("session.message"))

    gate.store.release()

    assert before == 1
    assert client.events("session.message")[-1]["messageSeq"] == 2


def test_a_hung_store_keeps_no_run(gate: Gate) -> None:
    """A store that never answers keeps nothing of the runs whose end it was given."""
    client = gate.client()
    client.send("hello")
    gate.store.hanging.add("finish_turn")
    watched: list[ref[Any]] = [ref(gate.runs._drives["r1"]), ref(gate.runs.get("r1"))]
    gate.live().end()
    gate.backend.live.clear()
    gate.clock.advance(2)
    gc.collect()

    assert [watch() for watch in watched] == [None, None]


def test_an_end_that_is_announced_later(gate: Gate) -> None:
    """Where an end is held back it comes once, and nothing of the wait for the store is left."""
    gate.runs.end_delay_s = 0.1
    client = gate.client()
    client.send("one", run="r1")
    gate.live("r1").end()
    client.send("two", key="other", run="r2")
    gate.store.hanging.add("finish_turn")
    gate.live("r2").end()
    gate.store.release()
    before = (client.ends("r1"), client.ends("r2"))
    pending = len(gate.clock.getDelayedCalls())
    gate.clock.advance(0.1)

    assert before == (([], []), ([], []))
    assert pending == 2
    assert client.ends("r1") == client.ends("r2") == (["final"], ["end"])
    assert gate.clock.getDelayedCalls() == []


def test_a_store_that_fails_at_the_end(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """An end that the store refuses is logged and announced at once."""
    expected_failures.append(StoreError)
    client = gate.client()
    client.send("hello")
    gate.live().sink.text("answer")
    gate.store.failing["finish_turn"] = StoreError("disk full")

    gate.live().end()

    assert client.ends() == (["final"], ["end"])
    assert len(gate.runs) == 0


def test_what_the_store_gets(gate: Gate) -> None:
    """The end of a run is stored with the answer, its usage and every event not stored before."""
    client = gate.client()
    client.send("hello")
    gate.live().sink.text("an")
    gate.turn()
    gate.live().sink.text("swer")

    gate.live().end(
        stop_reason="length", usage=Usage(input_tokens=3, output_tokens=4), provider="p", model="m"
    )

    record = result_of(gate.store.get_run("r1"))
    assert (record.state, record.stop_reason, record.last_seq) == (RunState.DONE, "length", 4)
    events = result_of(gate.store.list_events("r1", after_seq=0, limit=10))
    assert [event.seq for event in events] == [1, 2, 3, 4]
    session = result_of(gate.store.get_session("agent:main:main"))
    assert (session.input_tokens, session.output_tokens, session.total_tokens) == (3, 4, 7)
    (_, answer) = result_of(gate.store.list_messages(session.session_id, limit=10))
    assert answer.meta == {
        "provider": "p",
        "model": "m",
        "usage": {"input": 3, "output": 4, "totalTokens": 7},
    }
    assert gate.runs.log.lost == 0


def test_why_a_run_failed_is_logged(gate: Gate) -> None:
    """The line of a failed run has the kind of its error and the provider's status, not its text."""
    gate.client().send("hello")
    detail = {"httpStatus": 429, "provider": "p"}

    with Lines() as lines:
        gate.live().done.errback(
            BackendError("slow down", kind=BackendErrorKind.RATE_LIMIT, detail=detail)
        )

    (text,) = lines.texts
    assert text.endswith(" state=failed errorKind=rate_limit httpStatus=429")
    assert lines.events[0]["httpStatus"] == 429


def test_the_end_is_logged(gate: Gate) -> None:
    """Drives put nothing but texts and numbers into the log, so the log keeps no run alive."""
    gate.client().send("hello")

    with Lines() as lines:
        gate.live().end()

    (event,) = lines.events
    assert lines.texts == ["run ended run=r1 session=agent:main:main agent=main state=done"]
    assert event["durationMs"] == 0
    assert event["log_source"] is None
    assert "stopReason" not in event


def test_a_message_that_the_store_refuses_is_logged_in_a_line(gate: Gate) -> None:
    """While the store fails each refused message is one warning, without a traceback."""
    gate.store.failing["accept_turn"] = StoreError("disk full")

    with Lines() as lines:
        call = gate.client().send("hello")

    assert call.error["retryable"] is True
    assert lines.texts == ["run r1 was not stored: disk full"]
    assert lines.events[0]["log_level"].name == "warn"


def test_what_ended_a_run_is_logged(gate: Gate) -> None:
    """The line of a run that the gateway ended says for what reason; an agent's word is not logged."""
    client = gate.client()
    client.send("hello")

    with Lines() as lines:
        client.ok("chat.abort", {"sessionKey": "main"})

    assert [event["stopReason"] for event in lines.events] == ["rpc"]
