"""How the Twisted driver comes to a connection, or does not; in memory and on a fake clock."""

from __future__ import annotations

import pytest
from twisted.internet import error as net_error
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from gateway.client import ClientOptions, Credentials
from gateway.client.errors import (
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    InvalidUrl,
)
from gateway.client.twisted import connect
from gateway.testing import FakeClock, result_of
from tests.client.scripted import MemoryEndpoint, Script
from tests.client.wire import OPTIONS, URL, Wire


def test_a_client_connects():
    """Connect gives a client that knows what the gateway said."""
    wire = Wire()

    client = wire.client()

    assert client.hello.protocol == 4
    assert client.hello.methods == ("health", "chat.send", "chat.abort")
    wire.settle()


def test_closing_is_clean_on_both_sides():
    """A closed client sends its close frame and leaves no timer."""
    wire = Wire()
    closed = wire.client().close(1000, "done")
    again = wire.client().close()

    wire.flush()

    result_of(closed)
    result_of(again)
    assert wire.script.closes == [(True, 1000, "done")]
    assert wire.clock.getDelayedCalls() == []
    error = result_of(wire.client().when_closed())
    assert isinstance(error, ConnectionLost)
    assert error.reason == "done"


def test_a_refusal_is_typed():
    """A wrong token fails with the code of the answer and of the close frame."""
    wire = Wire(options=ClientOptions(credentials=Credentials(token="wrong")))

    with pytest.raises(ConnectRefused) as raised:
        wire.client()

    assert raised.value.code == "INVALID_REQUEST"
    assert raised.value.detail_code == "AUTH_TOKEN_MISMATCH"
    assert raised.value.close_code == 1008
    assert "wrong" not in str(raised.value)
    assert wire.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("code", "reason", "retry_after_ms"),
    [(1013, "gateway starting", 500), (1012, "service restart", None), (1008, "no", None)],
)
def test_a_close_instead_of_an_answer(code, reason, retry_after_ms):
    """A gateway that closes during the handshake refuses, with its code and hint."""
    script = Script(connect=lambda connection, frame: connection.hang_up(code, reason))

    wire = Wire(script)

    with pytest.raises(ConnectRefused) as raised:
        wire.client()
    assert (raised.value.close_code, raised.value.close_reason) == (code, reason)
    assert raised.value.retry_after_ms == retry_after_ms


def test_no_challenge_in_time():
    """Without a challenge the client closes with 1008 and says so."""
    script = Script()
    script.challenge = None
    wire = Wire(script)

    wire.after(15)

    with pytest.raises(ConnectionLost, match="connect challenge timeout"):
        wire.client()
    assert script.closes == [(True, 1008, "connect challenge timeout")]
    assert wire.clock.getDelayedCalls() == []


@implementer(IStreamClientEndpoint)
class DeadEndpoint:
    def __init__(self, outcome=None):
        self.cancelled = False
        self.outcome = outcome

    def connect(self, protocolFactory):
        if self.outcome is not None:
            return fail(self.outcome)
        return Deferred(lambda _: setattr(self, "cancelled", True))


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (net_error.ConnectionRefusedError(111, "x"), "connection refused"),
        (net_error.DNSLookupError("x"), "unknown host"),
        (net_error.TimeoutError(), "timed out"),
        (net_error.ConnectError(string="network is down"), "network is down"),
    ],
)
def test_no_connection(outcome, why):
    """A host that can not be reached fails with one line that names the address and why."""
    clock = FakeClock()

    connecting = connect(clock, URL, OPTIONS, endpoint=DeadEndpoint(outcome))

    with pytest.raises(ConnectFailed) as raised:
        result_of(connecting)
    assert why in str(raised.value)
    assert str(raised.value).startswith(f"cannot connect to {URL}: ")
    assert clock.getDelayedCalls() == []


def test_a_host_that_does_not_answer():
    """A host that never answers is given up after the handshake timeout."""
    clock, endpoint = FakeClock(), DeadEndpoint()
    connecting = connect(clock, URL, OPTIONS, endpoint=endpoint)

    clock.advance(15)

    with pytest.raises(ConnectFailed, match="timed out"):
        result_of(connecting)
    assert endpoint.cancelled
    assert clock.getDelayedCalls() == []


def test_connecting_can_be_cancelled():
    """Cancelling the Deferred of connect gives up at once."""
    clock, endpoint = FakeClock(), DeadEndpoint()
    connecting = connect(clock, URL, OPTIONS, endpoint=endpoint)

    connecting.cancel()

    with pytest.raises(ConnectFailed):
        result_of(connecting)
    assert endpoint.cancelled
    assert clock.getDelayedCalls() == []


def test_the_handshake_can_be_cancelled():
    """Cancelling while the gateway has not answered yet closes the connection."""
    script = Script(connect=lambda connection, frame: None)
    wire = Wire(script)

    wire.connecting.cancel()
    wire.flush()

    with pytest.raises(ConnectFailed):
        wire.client()
    assert script.closes == [(True, 1000, None)]
    assert wire.clock.getDelayedCalls() == []


def test_an_upgrade_that_is_never_answered():
    """A server that takes the connection and says nothing is cut after the handshake timeout."""
    clock = FakeClock()
    endpoint = MemoryEndpoint(Script(), clock)
    connecting = connect(clock, URL, OPTIONS, endpoint=endpoint)

    clock.advance(15)
    cut = endpoint.pump.clientIO.disconnecting
    endpoint.flush()

    assert cut
    with pytest.raises(ConnectFailed, match="timed out"):
        result_of(connecting)
    assert clock.getDelayedCalls() == []


def test_a_server_that_speaks_no_websocket():
    """An HTTP answer without an upgrade fails with its status."""
    clock, script = FakeClock(), Script()
    endpoint = MemoryEndpoint(script, clock)
    connecting = connect(clock, URL, OPTIONS, endpoint=endpoint)

    endpoint.pump.client.dataReceived(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    endpoint.flush()

    with pytest.raises(ConnectFailed, match="503"):
        result_of(connecting)
    assert clock.getDelayedCalls() == []


def test_a_bad_address_fails():
    """An address that is no WebSocket URL fails as such."""
    with pytest.raises(InvalidUrl):
        result_of(connect(FakeClock(), "http://localhost:1", OPTIONS))
