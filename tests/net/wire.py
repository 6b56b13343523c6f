"""Wires for the tests of the network layer: masked frames, request heads, transports in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.protocol import ClientFactory
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.test import iosim
from zope.interface import implementer

from gateway.net.fastpath import ClockTimer, FastPathMixin
from gateway.testing import FakeClock

MASK = b"\x37\xfa\x21\x3d"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def masked(
    payload: bytes = b"",
    opcode: int = 1,
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    form: int | None = None,
    length: int | None = None,
) -> bytes:
    """Return a client's frame; ``form`` (7, 16, 64) and ``length`` override its length field."""
    size = len(payload) if length is None else length
    if form is None:
        form = 7 if size < 126 else 16 if size < 65_536 else 64
    masked_bit = 0 if mask is None else 0x80
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if form == 7:
        head += bytes([masked_bit | size])
    elif form == 16:
        head += bytes([masked_bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([masked_bit | 127]) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def close_frame(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """Return a client's close frame."""
    return masked(b"" if code is None else code.to_bytes(2, "big") + reason, 8)


def head(
    target: str = "/", method: str = "GET", version: str = "HTTP/1.1", **headers: str
) -> bytes:
    """Return a request head; header names are given with underscores."""
    lines = [f"{method} {target} {version}", f"Host: {headers.pop('Host', '127.0.0.1:18789')}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def upgrade(target: str = "/", **headers: str) -> bytes:
    """Return the head of a WebSocket upgrade."""
    wanted = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Key": KEY,
        "Sec_WebSocket_Version": "13",
    }
    return head(target, **(wanted | headers))


@implementer(ITCPTransport, IPushProducer)
class Wire(StringTransport):
    """A connected TCP transport in memory; ``log`` holds in order what was done to it."""

    protocol: Any = None

    def __init__(self, host: str = "127.0.0.1", port: int = 40_000) -> None:
        super().__init__(
            IPv4Address("TCP", "127.0.0.1", 18_789),
            IPv4Address("TCP", host, port),
            lenient=True,
        )
        self.log: list[tuple[Any, ...]] = []

    @property
    def sent(self) -> bytes:
        """All bytes written so far."""
        return bytes(self.value())

    def write(self, data: bytes) -> None:
        self.log.append(("write", data))
        super().write(data)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.log.append(("lose",))
        super().loseConnection()

    def loseWriteConnection(self) -> None:
        self.log.append(("half-close",))

    def abortConnection(self) -> None:
        self.log.append(("abort",))
        self.disconnected = True
        self.disconnecting = True

    def unregisterProducer(self) -> None:
        self.producer = None

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.log.append(("nodelay", enabled))

    def getTcpNoDelay(self) -> bool:
        return ("nodelay", True) in self.log

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.log.append(("keepalive", enabled))

    def getTcpKeepAlive(self) -> bool:
        return ("keepalive", True) in self.log

    def connect(self, protocol: Any) -> Any:
        """Connect a protocol to this end."""
        self.protocol = protocol
        protocol.makeConnection(self)
        return protocol

    def receive(self, data: bytes) -> None:
        """Deliver bytes to whatever protocol is on this end now."""
        self.protocol.dataReceived(data)

    def lose(self, reason: Exception | None = None) -> None:
        """Tell the protocol that the connection is lost."""
        self.connected = False
        self.protocol.connectionLost(Failure(reason or ConnectionDone("gone")))


class Recorder:
    """Notes every callback, and answers so that replies, pings and closes mingle in one read."""

    def onOpen(self: Any) -> None:
        self.events: list[tuple[Any, ...]] = []

    def onMessage(self: Any, payload: bytes, isBinary: bool) -> None:
        self.events.append(("message", payload, isBinary))
        if payload == b"close":
            self.sendClose(1000, "asked")
        elif payload == b"drop":
            self.dropConnection(abort=True)
        elif payload == b"ping":
            self.sendPing(b"from handler")
        elif payload == b"limit":
            self.maxMessagePayloadSize = 5
        room = self.maxMessagePayloadSize or 1 << 30  # Autobahn limits what is sent, too
        if self.state == self.STATE_OPEN and len(payload) + 3 <= room:
            self.sendMessage(b"re:" + payload, isBinary)

    def onPing(self: Any, payload: bytes) -> None:
        self.events.append(("ping", payload))
        super().onPing(payload)  # type: ignore[misc]

    def onPong(self: Any, payload: bytes) -> None:
        self.events.append(("pong", payload))

    def onClose(self: Any, wasClean: bool, code: int, reason: str) -> None:
        self.events.append(("close", wasClean, code, reason))


class Base(Recorder, WebSocketServerProtocol):  # type: ignore[misc]
    """Autobahn's own."""


class Fast(Recorder, FastPathMixin):
    """Ours, sending through Autobahn."""


def websocket_factory(protocol: Any, clock: FakeClock, **options: Any) -> WebSocketServerFactory:
    """Return an Autobahn factory whose timers are on the clock."""
    factory = WebSocketServerFactory(reactor=clock)
    factory.protocol = protocol
    factory.setProtocolOptions(**options)
    factory._batched_timer = ClockTimer(clock)
    return factory


def opened(factory: Any) -> Any:
    """Return the protocol of a WebSocket that is open; its transport is a fresh Wire."""
    wire = Wire()
    protocol = wire.connect(factory.buildProtocol(wire.getPeer()))
    wire.receive(upgrade())
    assert protocol.state == protocol.STATE_OPEN, wire.sent
    wire.clear()
    wire.log.clear()
    return protocol


def pair(server_factory: Any, client_factory: ClientFactory) -> tuple[Any, Any, Any]:
    """Connect a server and a client in memory; return both and the pump that carries the bytes."""
    client = client_factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 18_789))
    server = server_factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 40_000))
    server_end = iosim.makeFakeServer(server)
    client_end = iosim.makeFakeClient(client)
    pump = iosim.connect(server, server_end, client, client_end)
    pump.flush()
    return server, client, pump


def splits(stream: bytes) -> Iterator[list[bytes]]:
    """The stream whole, in single bytes, and in two at every place."""
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    for at in range(1, len(stream)):
        yield [stream[:at], stream[at:]]
