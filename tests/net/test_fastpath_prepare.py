"""gateway.net.fastpath: what connections of a prepared factory share, and what they do not."""

from __future__ import annotations

import autobahn.twisted.websocket
import autobahn.websocket.protocol
import pytest

from gateway.net.fastpath import FastPathMixin, disable_handshake_logging, prepare
from gateway.testing import FakeClock
from tests.net.wire import Fast, Wire, masked, opened, upgrade, websocket_factory

HELLO = masked(b"hello")


def test_prepared_connections_share_no_state() -> None:
    """Connections of a prepared factory have the options, and each its own state."""
    clock = FakeClock()
    factory = websocket_factory(Fast, clock, maxMessagePayloadSize=77, openHandshakeTimeout=9)
    prepare(factory, clock)
    one, two = opened(factory), opened(factory)
    one.maxMessagePayloadSize = 1000
    one.dataReceived(masked(b"\xc3\xa9", fin=False))
    two.dataReceived(masked(b"x", fin=False) + masked(b"y", 0))
    assert (one.maxMessagePayloadSize, two.maxMessagePayloadSize) == (1000, 77)
    assert one.utf8validator is not two.utf8validator
    assert (one.inside_message, two.inside_message) == (True, False)
    assert factory.countConnections == 2


def test_prepared_handshake_timeout() -> None:
    """A prepared factory still drops who does not finish the handshake in time."""
    clock = FakeClock()
    factory = websocket_factory(Fast, clock, openHandshakeTimeout=9)
    prepare(factory, clock)
    wire = Wire()
    wire.connect(factory.buildProtocol(wire.getPeer()))
    clock.advance(8.9)
    assert ("abort",) not in wire.log
    clock.advance(0.2)
    assert ("abort",) in wire.log
    wire.protocol.onClose = lambda *args: None
    wire.lose()
    assert clock.getDelayedCalls() == []


def test_messages_answer_autobahns_ping() -> None:
    """A message counts as the answer to Autobahn's own ping, as in the base class."""
    for stream in (b"", HELLO):
        clock = FakeClock()
        factory = websocket_factory(Fast, clock, autoPingInterval=10, autoPingTimeout=3)
        prepare(factory, clock)
        protocol = opened(factory)
        clock.advance(10)
        assert protocol.transport.sent.startswith(b"\x89")
        protocol.dataReceived(stream)
        clock.advance(3.5)
        assert (("abort",) in protocol.transport.log) is (stream == b"")


def test_close_timer_is_on_the_clock() -> None:
    """A peer that does not answer a close is aborted by the injected clock."""
    clock = FakeClock()
    factory = websocket_factory(Fast, clock, closeHandshakeTimeout=1)
    prepare(factory, clock)
    protocol = opened(factory)
    protocol.sendClose(1000)
    clock.advance(1)
    assert protocol.transport.log[-1] == ("abort",)


def test_prepared_connections_refuse_compression() -> None:
    """Functions among the options stay functions: an offer of compression is heard and refused."""
    clock = FakeClock()
    factory = websocket_factory(Fast, clock)
    prepare(factory, clock)
    wire = Wire()
    wire.connect(factory.buildProtocol(wire.getPeer()))
    wire.receive(upgrade(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"))
    wire.receive(HELLO)
    assert wire.sent.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Extensions" not in wire.sent
    assert wire.protocol.events == [("message", b"hello", False)]


def test_class_attributes_go_before_the_factory() -> None:
    """An option set on the protocol class wins over the factory's, as in the base class."""

    class Small(Fast):
        maxMessagePayloadSize = 3  # noqa: N815 - Autobahn's name

    clock = FakeClock()
    factory = websocket_factory(Small, clock, maxMessagePayloadSize=99)
    prepare(factory, clock)
    assert opened(factory).maxMessagePayloadSize == 3


def test_unknown_state_is_refused() -> None:
    """A version of Autobahn that gives connections other state of their own is noticed at the start."""

    class Counted(FastPathMixin):
        def setTrackTimings(self, enable: bool) -> None:
            super().setTrackTimings(enable)
            self.made = [1]

    factory = websocket_factory(Counted, FakeClock())
    with pytest.raises(RuntimeError, match="made"):
        prepare(factory, FakeClock())


def test_disable_handshake_logging_is_idempotent() -> None:
    """Autobahn's makers of log texts make none, however often that is asked for."""
    disable_handshake_logging()
    disable_handshake_logging()
    assert autobahn.websocket.protocol.pformat([1]) == ""
    assert autobahn.twisted.websocket.hltype(object) == ""
