"""Runs as the user of a client sees them."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from gateway.client.chat import Outcome, RunEnded, TextDelta
from gateway.client.errors import (
    ConnectionLost,
    RequestFailed,
    RequestNotSent,
)
from gateway.testing import result_of
from tests.client.scripted import Script
from tests.client.wire import Wire, collect, read


def started(connection, frame):
    connection.answer(frame, {"runId": frame["params"]["idempotencyKey"], "status": "started"})


def test_a_run_streams_and_ends_once():
    """A run gives its text as it grows, then exactly one end, though the gateway tells it twice."""
    wire = Wire(Script(chat_send=started))
    run = wire.client().chat("hello there")
    events: list[object] = []

    async def follow():
        async for event in run:
            events.append(event)

    done = Deferred.fromCoroutine(follow())
    wire.flush()
    wire.server.chat("another", "delta", text="not mine")
    wire.server.chat(run.run_id, "delta", text="hello")
    wire.flush()
    wire.server.chat(run.run_id, "delta", text="hello there")
    wire.server.chat(run.run_id, "final", text="hello there")
    wire.server.chat(run.run_id, "final", text="hello there")
    wire.flush()

    result_of(done)
    assert events[:2] == [TextDelta("hello"), TextDelta(" there")]
    assert isinstance(events[2], RunEnded)
    assert events[2].outcome is Outcome.FINAL
    assert len(events) == 3
    sent = wire.script.params("chat.send")
    assert sent == {"sessionKey": "main", "message": "hello there", "idempotencyKey": run.run_id}
    wire.settle()


def test_events_that_overtake_the_answer_count():
    """Deltas that come before the answer to chat.send belong to the run."""

    def overtake(connection, frame):
        run_id = frame["params"]["idempotencyKey"]
        connection.chat(run_id, "delta", text="fast")
        connection.chat(run_id, "final", text="fast")
        started(connection, frame)

    wire = Wire(Script(chat_send=overtake))

    run = wire.client().chat("x", "agent:main:other", params={"thinking": "low"})
    wire.flush()

    assert result_of(Deferred.fromCoroutine(run.result())).text == "fast"
    assert wire.script.params("chat.send")["thinking"] == "low"
    assert wire.script.params("chat.send")["sessionKey"] == "agent:main:other"
    wire.settle()


def test_a_slow_reader_gets_larger_deltas():
    """Deltas that pile up for a slow reader are merged into one."""
    wire = Wire(Script(chat_send=started))
    run = wire.client().chat("x")
    wire.flush()
    for text in ("a", "ab", "abc"):
        wire.server.chat(run.run_id, "delta", text=text)
    wire.server.chat(run.run_id, "final", text="abc")
    wire.flush()

    events = result_of(collect(run))

    assert events[0] == TextDelta("abc")
    assert len(events) == 2
    wire.settle()


def test_a_run_can_be_aborted():
    """Abort names the session and the run; the end comes as an event."""

    def abort(connection, frame):
        run_id = frame["params"]["runId"]
        connection.answer(frame, {"ok": True, "aborted": True, "runIds": [run_id]})
        connection.chat(run_id, "aborted", text="par", stopReason="rpc")

    wire = Wire(Script(chat_send=started, chat_abort=abort))
    run = wire.client().chat("x", "main", idempotency_key="key-1")
    wire.flush()

    answer = run.abort()
    wire.flush()

    assert result_of(answer)["aborted"] is True
    assert wire.script.params("chat.abort") == {"sessionKey": "main", "runId": "key-1"}
    end = result_of(Deferred.fromCoroutine(run.result()))
    assert (end.outcome, end.text, end.stop_reason) == (Outcome.ABORTED, "par", "rpc")
    wire.settle()


def test_a_refused_message_is_raised():
    """A message that the gateway refuses is raised by the iteration."""
    wire = Wire(Script(chat_send=lambda c, f: c.refuse(f, "INVALID_REQUEST", "message required")))

    run = wire.client().chat("")
    wire.flush()

    with pytest.raises(RequestFailed, match="message required"):
        result_of(collect(run))
    wire.settle()


def test_a_command_without_a_run_ends_with_its_answer():
    """A stop command starts no run; its answer is the end."""
    answer = {"ok": True, "aborted": False, "runIds": []}
    wire = Wire(Script(chat_send=lambda c, f: c.answer(f, answer)))

    run = wire.client().chat("/stop")
    wire.flush()

    (end,) = result_of(collect(run))
    assert end.outcome is Outcome.FINAL
    assert end.payload == answer
    wire.settle()


def test_a_lost_connection_ends_the_run():
    """A run whose connection is lost gives what it had and raises ConnectionLost."""
    wire = Wire(Script(chat_send=started))
    run = wire.client().chat("x")
    wire.flush()
    wire.server.chat(run.run_id, "delta", text="par")
    wire.flush()

    wire.endpoint.break_socket()

    assert result_of(read(run)) == TextDelta("par")
    with pytest.raises(ConnectionLost):
        result_of(read(run))
    with pytest.raises(ConnectionLost):
        result_of(collect(wire.client().chat("more")))


def test_one_key_is_read_once():
    """A second run under the key of one that is being read is refused here."""
    wire = Wire(Script(chat_send=started))
    wire.client().chat("x", idempotency_key="k")

    with pytest.raises(RequestNotSent):
        result_of(collect(wire.client().chat("x", idempotency_key="k")))

    wire.settle()
