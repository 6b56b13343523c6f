"""gateway.net.fastpath: joining, pausing and the handshake."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from gateway.net.fastpath import (
    PAUSE_ABOVE,
    frame,
    prepare,
)
from gateway.testing import FakeClock
from tests.net.wire import (
    ACCEPT,
    Base,
    Fast,
    Wire,
    close_frame,
    masked,
    opened,
    splits,
    upgrade,
    websocket_factory,
)

HELLO = masked(b"hello")

# -- joining


def test_replies_of_one_read_are_one_write() -> None:
    """Replies and pongs that one read brings about leave in one write, in the order of sending."""
    protocol = opened(websocket_factory(Fast, FakeClock()))
    protocol.dataReceived(masked(b"a") + masked(b"p", 9) + masked(b"b"))
    assert protocol.transport.log == [("write", b"\x81\x04re:a\x8a\x01p\x81\x04re:b")]


def test_outside_a_read_nothing_waits() -> None:
    """A frame that no read brought about is written at once."""
    protocol = opened(websocket_factory(Fast, FakeClock()))
    protocol.send_frame_bytes(frame(b"event"))
    protocol.sendPing(b"p")
    assert protocol.transport.log == [("write", b"\x81\x05event"), ("write", b"\x89\x01p")]


def test_handshake_and_first_frame_are_one_write() -> None:
    """The 101 and what onOpen sends leave in one write."""

    class Greeting(Fast):
        def onOpen(self) -> None:
            super().onOpen()
            self.send_frame_bytes(frame(b"challenge"))

    wire = Wire()
    wire.connect(websocket_factory(Greeting, FakeClock()).buildProtocol(wire.getPeer()))
    wire.receive(upgrade())
    (written,) = [data for kind, data in (e for e in wire.log if e[0] == "write")]
    assert written.startswith(b"HTTP/1.1 101 ")
    assert ACCEPT in written
    assert written.endswith(b"\r\n\r\n\x81\x09challenge")


class Full(Wire):
    """A transport that takes nothing: all that is written stays pending in it."""

    pending = 0

    def write(self, data: bytes) -> None:
        super().write(data)
        self.pending += len(data)

    @property
    def _appSendBuffer(self) -> list[bytes]:
        return [bytes(self.pending)]


def test_joined_bytes_are_bounded() -> None:
    """Joined replies are written at 16 KiB, and are not joined while the transport has bytes pending."""
    wire = Full()
    protocol = wire.connect(websocket_factory(Fast, FakeClock()).buildProtocol(wire.getPeer()))
    wire.receive(upgrade())
    wire.pending = 0
    wire.log.clear()
    protocol.dataReceived(masked(b"x" * 9000) * 5)
    sizes = [len(data) for _, data in wire.log]
    reply = 9003 + 4
    assert sizes == [2 * reply, reply, reply, reply]
    assert sizes[0] <= PAUSE_ABOVE + reply
    assert protocol.pending_bytes == 5 * reply


def test_nothing_is_joined_behind_pending_bytes() -> None:
    """While the transport has bytes pending, each reply is written to it, where it can be counted."""
    wire = Full()
    wire.connect(websocket_factory(Fast, FakeClock()).buildProtocol(wire.getPeer()))
    wire.receive(upgrade())
    wire.log.clear()
    wire.receive(HELLO * 3)
    assert [len(data) for _, data in wire.log] == [10, 10, 10]


def test_pending_bytes_include_what_is_joined() -> None:
    """Inside a read the bytes that wait for its end count as pending."""
    seen = []

    class Counting(Fast):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            super().onMessage(payload, isBinary)
            seen.append(self.pending_bytes)

    protocol = opened(websocket_factory(Counting, FakeClock()))
    protocol.dataReceived(masked(b"a") + masked(b"bb"))
    assert seen == [6, 13]
    assert protocol.pending_bytes == 0


def test_an_exception_sends_what_came_before() -> None:
    """An exception of onMessage leaves the read, but the replies before it are written."""

    class Raising(Fast):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            super().onMessage(payload, isBinary)
            if payload == b"b":
                raise LookupError(payload)

    protocol = opened(websocket_factory(Raising, FakeClock()))
    with pytest.raises(LookupError):
        protocol.dataReceived(masked(b"a") + masked(b"b") + masked(b"c"))
    assert protocol.transport.sent == b"\x81\x04re:a\x81\x04re:b"
    protocol.dataReceived(masked(b"d"))
    assert protocol.transport.sent.endswith(b"\x81\x04re:d")


def test_sync_and_chopped_sends_come_after_joined_ones() -> None:
    """Autobahn's slow sends are kept, behind what was joined before them."""

    class Chopping(Fast):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            self.send_frame_bytes(frame(b"first"))
            self.sendData(b"second", chopsize=100)

    protocol = opened(websocket_factory(Chopping, FakeClock()))
    autobahn_calls: list[Any] = []
    protocol._trigger = lambda: autobahn_calls.append(list(protocol.send_queue))
    protocol.dataReceived(HELLO)
    assert protocol.transport.log == [("write", b"\x81\x05first")]
    assert autobahn_calls == [[(b"second", True)]]


# -- pausing


class Pausing(Fast):
    """Pauses at the message "pause"."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        super().onMessage(payload, isBinary)
        if payload == b"pause":
            self.pause_reading()


PAUSES = [
    masked(b"pause") + HELLO + masked(b"p", 9) + masked(b"he", fin=False) + masked(b"llo", 0),
    masked(b"pa", fin=False) + masked(b"use", 0) + HELLO + masked(b"\xff"),
    masked(b"pause") + masked(b"pause") + HELLO + close_frame(),
]


@pytest.mark.parametrize("stream", PAUSES)
def test_paused_reading_delivers_nothing(stream: bytes) -> None:
    """After pause_reading nothing more of the read is handled; later it is, in order, at any split."""
    for chunks in splits(stream):
        expected = opened(websocket_factory(Base, FakeClock()))
        protocol = opened(websocket_factory(Pausing, FakeClock()))
        for chunk in chunks:
            expected.dataReceived(chunk)
            protocol.dataReceived(chunk)
            if protocol.transport.producerState == "paused":
                assert protocol.events[-1] == ("message", b"pause", False)
        while protocol.transport.producerState == "paused":
            protocol.resume_reading()
        assert protocol.events == expected.events
        assert protocol.transport.sent == expected.transport.sent


def test_pause_in_on_open_holds_what_came_with_the_handshake() -> None:
    """Frames that came in one read with the handshake wait when onOpen pauses."""

    class Shy(Fast):
        def onOpen(self) -> None:
            super().onOpen()
            self.pause_reading()

    wire = Wire()
    protocol = wire.connect(websocket_factory(Shy, FakeClock()).buildProtocol(wire.getPeer()))
    wire.receive(upgrade() + HELLO + HELLO[:3])
    wire.receive(HELLO[3:])
    assert protocol.events == []
    protocol.resume_reading()
    assert protocol.events == [("message", b"hello", False)] * 2


def test_resume_inside_the_read_goes_on() -> None:
    """Pausing and resuming inside one callback delivers every message once."""

    class Brief(Pausing):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            super().onMessage(payload, isBinary)
            if payload == b"pause":
                self.resume_reading()

    protocol = opened(websocket_factory(Brief, FakeClock()))
    protocol.dataReceived(masked(b"pause") + HELLO)
    assert [event[1] for event in protocol.events] == [b"pause", b"hello"]


def test_lost_connection_forgets_unread_bytes() -> None:
    """What was held by a pause is not delivered after the connection is lost."""
    protocol = opened(websocket_factory(Pausing, FakeClock()))
    protocol.dataReceived(masked(b"pause") + HELLO)
    protocol.transport.lose()
    protocol.resume_reading()
    assert [event[0] for event in protocol.events] == ["message", "close"]


# -- the handshake


@pytest.mark.parametrize("at", [1, 40, 100, len(upgrade()) - 1])
def test_frames_behind_the_handshake(at: int) -> None:
    """A head in pieces with messages right behind it opens and delivers them."""
    wire = Wire()
    protocol = wire.connect(websocket_factory(Fast, FakeClock()).buildProtocol(wire.getPeer()))
    stream = upgrade() + HELLO + masked(b"p", 9) + HELLO[:4]
    wire.receive(stream[:at])
    wire.receive(stream[at:])
    wire.receive(HELLO[4:])
    assert protocol.events == [
        ("message", b"hello", False),
        ("ping", b"p"),
        ("message", b"hello", False),
    ]


def test_head_of_exactly_the_limit() -> None:
    """A head of 16 KiB before its blank line is taken, one byte more is answered 431 and closed."""
    for size, status in ((16_384, b"101"), (16_385, b"431")):
        spare = size - len(upgrade(X="")) + 4
        wire = Wire()
        wire.connect(websocket_factory(Fast, FakeClock()).buildProtocol(wire.getPeer()))
        for byte in (data := upgrade(X="x" * spare))[:-8], data[-8:-2], data[-2:]:
            wire.receive(byte)
        assert wire.sent.startswith(b"HTTP/1.1 " + status)
        assert (("lose",) in wire.log) is (status == b"431")


def test_endless_head_is_refused() -> None:
    """A head without an end is refused as soon as it is too large."""
    wire = Wire()
    wire.connect(websocket_factory(Fast, FakeClock()).buildProtocol(wire.getPeer()))
    wire.receive(b"GET / HTTP/1.1\r\n" + b"x" * 20_000)
    assert wire.sent.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert wire.log[-1] == ("lose",)


def test_refused_handshake_is_a_whole_response() -> None:
    """A bad upgrade is answered with a length, a reason as text and the security headers."""
    wire = Wire()
    wire.connect(websocket_factory(Fast, FakeClock()).buildProtocol(wire.getPeer()))
    wire.receive(upgrade(Sec_WebSocket_Key="short"))
    response, _, body = wire.sent.partition(b"\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nX-Content-Type-Options: nosniff" in response
    assert b"\r\nContent-Length: %d" % len(body) in response
    assert b"Sec-WebSocket-Key" in body
    assert [entry[0] for entry in wire.log if entry[0] != "nodelay"] == ["write", "lose"]


def test_broken_on_connect_tells_nothing() -> None:
    """What an exception in onConnect says stays inside."""

    class Broken(Fast):
        def onConnect(self, request: Any) -> None:
            raise LookupError("a secret")

    wire = Wire()
    wire.connect(websocket_factory(Broken, FakeClock()).buildProtocol(wire.getPeer()))
    wire.receive(upgrade())
    assert wire.sent.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"secret" not in wire.sent


def test_no_delay_is_set() -> None:
    """Small frames leave without waiting for acknowledgements: TCP_NODELAY is on."""
    wire = Wire()
    wire.connect(websocket_factory(Fast, FakeClock()).buildProtocol(wire.getPeer()))
    assert wire.log == [("nodelay", True)]


def test_handshake_is_forgotten() -> None:
    """The head of the request is there in onOpen and gone afterwards."""
    seen = []

    class Looking(Fast):
        def onOpen(self) -> None:
            super().onOpen()
            seen.append(self.http_headers["host"])

    protocol = opened(websocket_factory(Looking, FakeClock()))
    assert seen == ["127.0.0.1:18789"]
    assert not hasattr(protocol, "http_headers")


def test_closed_connection_leaves_no_cycle() -> None:
    """A lost connection is freed at once, without the garbage collector."""
    clock = FakeClock()
    factory = websocket_factory(Fast, clock)
    prepare(factory, clock)
    protocol = opened(factory)
    protocol.dataReceived(HELLO)
    wire = protocol.transport
    gone = weakref.ref(protocol)
    gc.disable()
    try:
        wire.lose()
        wire.protocol = None
        del protocol
        assert gone() is None
    finally:
        gc.enable()
