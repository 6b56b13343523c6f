"""What a connection costs in Autobahn's own class and in ours, in one process and without sockets.

    python -m bench.micro_fastpath

Prints for each case the microseconds of both (best of several rounds, alternating) and their ratio.
Sockets and the reactor are left out, so these are the parts that ``gateway.net.fastpath`` is about.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from gateway.net.fastpath import FastPathMixin, disable_handshake_logging, frame, prepare

ROUNDS = 7
HEAD = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:18789\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"User-Agent: bench\r\n\r\n"
)


class Sink:
    """A transport that takes everything and keeps nothing."""

    protocol: Any = None

    def write(self, data: bytes) -> None:
        """Drop it."""

    def getPeer(self) -> IPv4Address:
        """Return some address."""
        return IPv4Address("TCP", "127.0.0.1", 40_000)

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802 - Twisted's name
        """Take note of nothing."""

    def unregisterProducer(self) -> None:
        """There is none."""

    def loseConnection(self) -> None:
        """Stay."""


class Base(WebSocketServerProtocol):  # type: ignore[misc]
    """Autobahn's."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Answer what asks for it."""
        if payload[0] == 0x7B:
            self.sendMessage(payload)


class Fast(FastPathMixin):
    """Ours."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Answer what asks for it."""
        if payload[0] == 0x7B:
            self.send_frame_bytes(frame(payload))


def masked(payload: bytes, opcode: int = 1) -> bytes:
    """Return a client's frame under a mask of zeros, which costs the same to take off."""
    header = bytes([0x80 | opcode])
    if len(payload) < 126:
        header += bytes([0x80 | len(payload)])
    elif len(payload) < 65_536:
        header += b"\xfe" + len(payload).to_bytes(2, "big")
    else:
        header += b"\xff" + len(payload).to_bytes(8, "big")
    return header + b"\0\0\0\0" + payload


def factory_of(protocol: Any) -> WebSocketServerFactory:
    """Return a factory that accepts large messages."""
    factory = WebSocketServerFactory(reactor=Clock())
    factory.protocol = protocol
    factory.setProtocolOptions(maxMessagePayloadSize=1 << 26)
    return factory


def connect(factory: WebSocketServerFactory) -> Any:
    """Return an open connection."""
    protocol = factory.buildProtocol(None)
    protocol.transport = sink = Sink()
    sink.protocol = protocol
    protocol.connectionMade()
    protocol.dataReceived(HEAD)
    assert protocol.state == protocol.STATE_OPEN
    return protocol


def best(function: Callable[[], object], count: int) -> float:
    """Return the microseconds of one call."""
    start = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - start) / count * 1e6


def kilobytes(factory: WebSocketServerFactory) -> float:
    """Return the kilobytes of an open connection on the Python heap."""
    gc.collect()
    tracemalloc.start()
    kept = [connect(factory) for _ in range(500)]
    gc.collect()
    size = tracemalloc.get_traced_memory()[0] / len(kept) / 1024
    tracemalloc.stop()
    return size


def main() -> None:
    """Measure and print."""
    base = factory_of(Base)
    fast = factory_of(Fast)
    handshakes = [best(lambda: connect(base), 300) for _ in range(ROUNDS)]
    print(f"{'handshake, Autobahn as it is':40}{min(handshakes):10.1f}")
    disable_handshake_logging()
    prepare(fast, Clock())
    request = masked(b'{"type":"req","id":"a1b2c3d4","method":"echo","params":{"n":12345}}')
    large = masked(b"x" * (1 << 20))
    reads = {
        "read of 1 request": (request, 65_536, 2000),
        "read of 8 requests": (request * 8, 65_536, 500),
        "read of 200 messages of 300 bytes": (masked(b"x" * 300) * 200, 65_536, 40),
        "1 MiB in reads of 64 KiB": (large, 65_536, 20),
        "64 KiB of empty pings": (masked(b"", 9) * 10_922, 65_536, 2),
        "64 KiB of fragments of 1 byte": (fragmented(9_362), 65_536, 2),
    }
    print(f"{'':40}{'Autobahn':>10}{'ours':>10}{'ratio':>8}")
    connects = [best(lambda: connect(base), 300) for _ in range(ROUNDS)]
    ours = [best(lambda: connect(fast), 300) for _ in range(ROUNDS)]
    report("handshake, without texts for the log", min(connects), min(ours))
    for name, (stream, size, count) in reads.items():
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        times = [
            (reading(base, pieces, count), reading(fast, pieces, count)) for _ in range(ROUNDS)
        ]
        report(name, min(a for a, _ in times), min(b for _, b in times))
    report("kilobytes of an open connection", kilobytes(base), kilobytes(fast))


def reading(factory: WebSocketServerFactory, pieces: list[bytes], count: int) -> float:
    """Return the microseconds of receiving the pieces on a new connection."""
    receive = connect(factory).dataReceived
    return best(lambda: [receive(piece) for piece in pieces], count)


def fragmented(count: int) -> bytes:
    """Return one message in fragments of one byte."""
    part = b"\x00\x81\0\0\0\0x"
    return b"\x01" + part[1:] + part * (count - 2) + b"\x80" + part[1:]


def report(name: str, base: float, fast: float) -> None:
    """Print one line."""
    print(f"{name:40}{base:10.1f}{fast:10.1f}{base / fast:8.1f}")


if __name__ == "__main__":
    main()
