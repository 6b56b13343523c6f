"""A connected client of the Twisted driver, in memory and on a fake clock."""

from __future__ import annotations

import math

import pytest
from twisted.internet.defer import CancelledError
from twisted.logger import LogLevel, capturedLogs

from gateway.client.actions import Event, Gap
from gateway.client.errors import (
    ConnectionLost,
    RequestFailed,
    RequestNotSent,
    RequestTimeout,
)
from gateway.client.options import MAX_FRAME_BYTES, ClientOptions
from gateway.client.tokens import Credentials
from gateway.testing import result_of
from tests.client.scripted import HELLO, TOKEN, Script
from tests.client.wire import Wire, read

# Requests.


def test_calls_are_answered():
    """A call fires with the payload, or fails with what the gateway said."""
    wire = Wire()
    client = wire.client()

    good, bad = client.call("health"), client.call("nope", {"a": 1})
    wire.flush()

    assert result_of(good) == {"ok": True}
    with pytest.raises(RequestFailed) as raised:
        result_of(bad)
    assert raised.value.code == "INVALID_REQUEST"
    assert wire.script.params("nope") == {"a": 1}
    wire.settle()


def test_a_call_with_two_answers():
    """With expect_final the first answer goes to on_accepted and the second is the result."""

    def agent(connection, frame):
        connection.answer(frame, {"runId": "r", "status": "accepted"})
        connection.answer(frame, {"runId": "r", "status": "ok", "summary": "completed"})

    wire = Wire(Script(agent=agent))
    accepted: list[object] = []

    final = wire.client().call("agent", {}, expect_final=True, on_accepted=accepted.append)
    first = wire.client().call("agent", {})
    wire.flush()

    assert accepted == [{"runId": "r", "status": "accepted"}]
    assert result_of(final)["status"] == "ok"
    assert result_of(first)["status"] == "accepted"
    wire.settle()


def test_a_call_times_out():
    """A call without an answer fails after its timeout, and the client goes on."""
    wire = Wire(Script(slow=lambda connection, frame: None))

    slow = wire.client().call("slow", timeout=3)
    wire.after(3)

    with pytest.raises(RequestTimeout):
        result_of(slow)
    health = wire.client().call("health")
    wire.flush()
    assert result_of(health) == {"ok": True}
    wire.settle()


def test_a_cancelled_call_is_forgotten():
    """Cancelling a call ends the waiting; its late answer is dropped."""
    wire = Wire(Script(slow=lambda connection, frame: None))
    slow = wire.client().call("slow")
    wire.flush()

    slow.cancel()
    wire.server.answer(wire.script.frames[-1], {})
    wire.flush()

    with pytest.raises(CancelledError):
        result_of(slow)
    wire.settle()


def test_a_call_that_can_not_be_sent_fails():
    """A request that is larger than the gateway takes fails without a frame."""
    script = Script()
    script.hello = {**HELLO, "policy": {"maxPayload": 500}}
    wire = Wire(script)

    with pytest.raises(RequestNotSent):
        result_of(wire.client().call("health", {"x": "y" * 500}))

    assert script.methods == []
    wire.settle()


def test_cancelling_siblings_from_a_failure_is_safe():
    """A callback that cancels other calls while the connection is being lost does no harm."""
    wire = Wire(Script(slow=lambda connection, frame: None))
    calls = [wire.client().call("slow") for _ in range(3)]
    calls[0].addErrback(lambda _: [call.cancel() for call in calls[1:]])
    wire.flush()

    wire.endpoint.break_socket()

    for call in calls[1:]:
        with pytest.raises(CancelledError):
            result_of(call)
    assert result_of(calls[0]) == [None, None]


# The end of a connection.


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1012, "service restart"), (1008, "slow consumer"), (4001, "device removed")],
)
def test_a_close_by_the_gateway(code, reason):
    """When the gateway closes, calls and streams fail at once with its code and reason."""
    wire = Wire(Script(slow=lambda connection, frame: None))
    client = wire.client()
    call, event = client.call("slow", timeout=math.inf), read(client.events())
    gone = client.when_closed()
    wire.flush()

    wire.server.hang_up(code, reason)
    wire.flush()

    for waiting in (call, event):
        with pytest.raises(ConnectionLost) as raised:
            result_of(waiting)
        assert (raised.value.code, raised.value.reason) == (code, reason)
    assert isinstance(result_of(gone), ConnectionLost)
    with pytest.raises(ConnectionLost):
        result_of(client.call("health"))
    with pytest.raises(ConnectionLost):
        result_of(read(client.events()))
    assert wire.clock.getDelayedCalls() == []


def test_a_broken_socket():
    """A socket that breaks fails every call exactly once with 1006."""
    wire = Wire(Script(slow=lambda connection, frame: None))
    failures: list[object] = []
    for _ in range(3):
        wire.client().call("slow").addErrback(lambda f: failures.append(f.value))
    wire.flush()

    wire.endpoint.break_socket()

    assert len(failures) == 3
    assert all(isinstance(e, ConnectionLost) and e.code == 1006 for e in failures)
    assert wire.clock.getDelayedCalls() == []


def test_a_gateway_that_never_ends_the_connection_is_cut():
    """After the close handshake the gateway has the close timeout to end the connection."""
    wire = Wire()
    gone = wire.client().when_closed()
    wire.endpoint.pump.serverIO.loseConnection = lambda: None
    wire.endpoint.pump.serverIO.abortConnection = lambda: None

    wire.server.hang_up(1012, "service restart")
    wire.flush()
    before = gone.called
    wire.after(1)

    assert not before
    error = result_of(gone)
    assert isinstance(error, ConnectionLost)
    assert error.code == 1012
    assert wire.clock.getDelayedCalls() == []


def test_a_silent_gateway_is_left():
    """No message for twice the tick interval closes with 4000; ticks keep the connection."""
    wire = Wire()
    for _ in range(3):
        wire.after(50)
        wire.server.event("tick", {"ts": 1})
        wire.flush()
    alive = wire.script.closes == []

    wire.after(60)

    assert alive
    assert wire.script.closes == [(True, 4000, "tick timeout")]
    error = result_of(wire.client().when_closed())
    assert isinstance(error, ConnectionLost)
    assert error.code == 4000
    assert wire.clock.getDelayedCalls() == []


def test_an_oversized_frame_closes_with_1009():
    """A frame that announces more than the limit ends the connection with 1009."""
    wire = Wire()
    head = b"\x81\x7f" + (MAX_FRAME_BYTES + 1).to_bytes(8, "big")

    wire.endpoint.pump.client.dataReceived(head)
    wire.flush()

    assert wire.script.closes[0][:2] == (True, 1009)
    error = result_of(wire.client().when_closed())
    assert isinstance(error, ConnectionLost)
    assert error.code == 1009


def test_a_masked_frame_is_a_protocol_error():
    """A server that breaks the WebSocket protocol is left with 1002."""
    wire = Wire()

    wire.endpoint.pump.client.dataReceived(b"\x81\x81mask\x00")
    wire.flush()

    error = result_of(wire.client().when_closed())
    assert isinstance(error, ConnectionLost)
    assert error.code == 1002


def test_nonsense_is_logged_and_skipped():
    """A message that is no frame is logged at warn, and the connection goes on."""
    wire = Wire()

    with capturedLogs() as logged:
        wire.server.sendMessage(b"{")
        wire.flush()

    told = [(event["log_level"], event["why"]) for event in logged if "why" in event]
    assert told == [(LogLevel.warn, "not JSON")]
    wire.settle()


# Events.


def test_listeners_hear_events_and_gaps():
    """Listeners get every event, and a gap before the event that shows it."""
    wire = Wire()
    heard: list[object] = []
    remove = wire.client().on_event(heard.append)

    wire.server.event("tick", {"ts": 1}, seq=1)
    wire.server.event("tick", {"ts": 2}, seq=4)
    wire.flush()
    remove()
    remove()
    wire.server.event("tick", {"ts": 3}, seq=5)
    wire.flush()

    assert heard == [Event("tick", {"ts": 1}, 1), Gap(2), Event("tick", {"ts": 2}, 4)]
    wire.settle()


def test_a_listener_that_raises_is_isolated(expected_failures):
    """A listener that raises is logged, and the others still get the event."""
    expected_failures.append(ZeroDivisionError)
    wire = Wire()
    heard: list[object] = []
    wire.client().on_event(lambda _: 1 // 0)
    wire.client().on_event(heard.append)

    wire.server.event("tick", seq=1)
    wire.flush()

    assert heard == [Event("tick", None, 1)]
    wire.settle()


def test_events_can_be_iterated():
    """The iterator gives events in order and ends when this side closes."""
    wire = Wire()
    feed = wire.client().events()

    wire.server.event("tick", seq=1)
    wire.flush()

    assert result_of(read(feed)) == Event("tick", None, 1)
    waiting = read(feed)
    wire.settle()
    with pytest.raises(StopAsyncIteration):
        result_of(waiting)


def test_a_closed_iterator_listens_no_more():
    """A reader that closes its iterator gets what had come, then the end."""
    wire = Wire()
    feed = wire.client().events()
    wire.server.event("tick", seq=1)
    wire.flush()

    feed.close()
    wire.server.event("tick", seq=2)
    wire.flush()

    assert result_of(read(feed)) == Event("tick", None, 1)
    with pytest.raises(StopAsyncIteration):
        result_of(read(feed))
    wire.settle()


def test_a_reader_that_lags_gets_a_gap():
    """Events that nobody reads are bounded: the oldest are dropped and told."""
    wire = Wire(options=ClientOptions(credentials=Credentials(token=TOKEN), max_events=2))
    feed = wire.client().events()

    for number in range(1, 6):
        wire.server.event("tick", seq=number)
    wire.flush()

    assert result_of(read(feed)) == Gap(3)
    assert result_of(read(feed)) == Event("tick", None, 4)
    wire.settle()
