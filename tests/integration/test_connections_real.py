"""Connections on real sockets: what peers see of a close, slow links, black holes, floods, losses."""

from __future__ import annotations

import gc
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, globalLogPublisher

from gateway.config import Config
from gateway.core.events import Event
from gateway.errors import CloseCause, CloseCode
from gateway.limits import LimitsConfig
from gateway.net.listen import listen
from gateway.net.port import SwitchFactory
from gateway.net.site import Site
from gateway.net.websocket import GatewayProtocol
from gateway.runtime import SystemClock
from gateway.testing import TOKEN, memory_gateway
from tests.net.gate import CLI, SCOPES, FrameReader
from tests.net.wire import close_frame, masked, upgrade

pytestmark = pytest.mark.integration
reactor: Any = _reactor
PEERS = 100


class Gate:
    """A gateway in memory behind a real port."""

    def __init__(self, spec: str = "127.0.0.1:0", **limits: Any) -> None:
        clock = SystemClock(reactor)
        config = Config(limits=LimitsConfig(**limits))
        self.wiring = memory_gateway(clock=clock, config=config)  # type: ignore[arg-type]
        self.factory = self.wiring.factory
        port = SwitchFactory(self.factory, Site(None, clock, websocket=self.factory), clock)  # type: ignore[arg-type]
        (self._listener,) = listen([spec], port, reactor)
        self.address: Any = self._listener.port.getHost()
        self._watch = LoopingCall(self.factory.sweep)
        self._watch.start(0.05)
        self.peers: list[Peer] = []

    def broadcast(self, name: str, **payload: Any) -> None:
        """Send an event to everybody."""
        self.wiring.services.hub.broadcast(Event(name, payload))

    async def until(self, condition: Callable[[], Any], *, seconds: float = 20) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never came to that"
            await deferLater(reactor, 0.005, lambda: None)

    async def stop(self) -> None:
        """Close the port and whoever is connected, on both sides."""
        self._watch.stop()
        await maybeDeferred(self._listener.stopListening)
        for connection in self.factory.open_connections:
            connection.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart")
            connection.abort()
        await self.until(lambda: not len(self.factory))
        for peer in self.peers:
            peer.socket.close()


class Peer:
    """A client on a blocking socket; all of it is for other threads than the reactor's."""

    def __init__(self, gate: Gate, *, receive: int = 0, tls: ssl.SSLContext | None = None) -> None:
        plain = socket.socket()
        if receive:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        plain.settimeout(15)
        plain.connect((gate.address.host, gate.address.port))
        self.socket: Any = tls.wrap_socket(plain) if tls else plain
        gate.peers.append(self)
        self._reader = FrameReader()
        self.frames: list[tuple[int, bytes]] = []
        self.socket.sendall(upgrade())
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.socket.recv(65_536)
        self._take(data.partition(b"\r\n\r\n")[2])

    def _take(self, data: bytes) -> None:
        self.frames += self._reader.feed(data)

    def read(self, limit: int = 65_536) -> bool:
        """Read once; return False at the end of the stream."""
        data = self.socket.recv(limit)
        self._take(data)
        return bool(data)

    def join(self) -> Peer:
        """Connect, and wait for the hello."""
        params = {"minProtocol": 4, "maxProtocol": 4, "client": CLI, "scopes": SCOPES}
        params |= {"auth": {"token": TOKEN}}
        request = {"type": "req", "id": "c", "method": "connect", "params": params}
        self.send(json.dumps(request).encode())
        while not any(b'"hello-ok"' in payload for _, payload in self.frames):
            assert self.read(), self.frames
        self.frames.clear()
        return self

    def send(self, payload: bytes, opcode: int = 1) -> None:
        """Send a frame."""
        self.socket.sendall(masked(payload, opcode))

    def closed(self) -> tuple[int, str] | None:
        """Read to the close frame, answer it, and read to the end; return its code and reason."""
        with suppress(OSError):
            while not any(opcode == 8 for opcode, _ in self.frames) and self.read():
                """More of what came before it."""
            self.socket.sendall(close_frame(1000))
            while self.read():
                """Nothing may follow: the reader checks that."""
        for opcode, payload in self.frames:
            if opcode == 8:
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()
        return None

    def reset(self) -> None:
        """Close with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@pytest.fixture
def log() -> Iterator[list[LogEvent]]:
    """The close lines."""
    lines: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if str(event.get("log_format", "")).startswith("closed conn="):
            lines.append(event)

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    yield lines
    globalLogPublisher.removeObserver(observer)


def at_once(function: Callable[[Any], Any], each: list[Any]) -> Deferred[list[Any]]:
    """Call a function with each of them, all at once."""

    def work() -> list[Any]:
        with ThreadPoolExecutor(len(each)) as pool:
            return list(pool.map(function, each))

    result: Deferred[list[Any]] = deferToThread(work)
    return result


def slow(gate: Gate) -> None:
    """Publish until nobody is left who would take it."""
    while any(connection.closing is None for connection in gate.factory.open_connections):
        gate.broadcast("agent", text="x" * 40_000)


def draining(gate: Gate) -> None:
    """Close as a gateway that stops does."""
    for connection in gate.factory.open_connections:
        connection.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart")


def nothing(gate: Gate) -> None:
    """Leave it to the peers."""


TOO_LARGE = masked(b"", length=27_262_976) + b"x" * 1_000_000


@pytest.mark.parametrize(
    ("do", "data", "code", "reason"),
    [
        (slow, b"", 1008, "slow consumer"),
        (draining, b"", 1012, "service restart"),
        (nothing, TOO_LARGE, 1009, "received WebSocket message size 27262976 exceeds"),
        (nothing, b"\x81\x01x", 1002, "unmasked client-to-server frame"),
        (nothing, masked(b"\x03\xe9bye", 8), 1000, ""),
    ],
    ids=["slow consumer", "drain", "too large", "violation", "the peer's own"],
)
@pytest_twisted.ensureDeferred
async def test_peers_see_why_they_are_closed(
    do: Callable[[Gate], None], data: bytes, code: int, reason: str, log: list[LogEvent]
) -> None:
    """Of a hundred peers that read at least 99 see the close code and its reason; each end is one line."""
    gate = Gate(outbox_bytes=100_000)

    def finish(peer: Peer) -> tuple[int, str] | None:
        if data:
            peer.socket.sendall(data)
        return peer.closed()

    peers = await at_once(lambda _: Peer(gate, receive=16_384).join(), list(range(PEERS)))
    do(gate)
    seen = await at_once(finish, peers)
    good = [end for end in seen if end and end[0] == code and end[1].startswith(reason)]
    assert len(good) >= 0.99 * PEERS, seen
    await gate.until(lambda: not len(gate.factory))
    assert len(log) == PEERS
    await gate.stop()


@pytest_twisted.ensureDeferred
async def test_a_peer_that_does_not_read_is_cut(log: list[LogEvent]) -> None:
    """A peer that takes nothing is aborted 1 s after the close frame was written, and not before."""
    gate = Gate(outbox_bytes=100_000)
    await deferToThread(lambda: Peer(gate, receive=4096).join())
    slow(gate)
    begin = time.monotonic()
    await gate.until(lambda: not len(gate.factory))
    assert time.monotonic() - begin > 0.9
    (line,) = log
    assert line["cause"] == "slow-consumer"
    assert 100_000 < line["queuedBytes"] < 300_000
    await gate.stop()


@pytest_twisted.ensureDeferred
async def test_memory_is_bounded_whatever_is_published() -> None:
    """While 100 MB are published to a peer that does not read, at most the cap and 64 KiB wait for it."""
    cap = 1_000_000
    gate = Gate(outbox_bytes=cap)
    await deferToThread(lambda: Peer(gate, receive=4096).join())
    (connection,) = gate.factory.open_connections
    for _ in range(50):
        for _ in range(50):
            gate.broadcast("presence", presence=["x" * 40_000])
            assert connection.outbox.queued <= cap
            assert connection.pending_bytes <= 65_536
        await deferLater(reactor, 0, lambda: None)
    assert connection.closing is None
    await gate.stop()


@pytest_twisted.ensureDeferred
async def test_pings_without_end_cost_no_memory() -> None:
    """A peer that pings and does not read fills at most 64 KiB, and gets its last answer when it reads."""
    gate = Gate()
    flood = b"".join(masked(b"%0100d" % number, 9) for number in range(40_000))
    peer = await deferToThread(lambda: Peer(gate, receive=4096).join())
    (connection,) = gate.factory.open_connections
    await deferToThread(peer.socket.sendall, flood)
    await gate.until(lambda: connection._pong == b"%0100d" % 39_999)
    assert connection.pending_bytes <= 65_536

    def last_pong() -> None:
        while (10, b"%0100d" % 39_999) not in peer.frames:
            assert peer.read()

    await deferToThread(last_pong)
    await gate.stop()


@pytest_twisted.ensureDeferred
async def test_a_slow_link_that_drains_stays_up(log: list[LogEvent]) -> None:
    """32 MiB through a link that takes longer than ping, patience and age together arrive whole."""
    gate = Gate(ping_silence_s=0.2, ping_timeout_s=0.3, outbox_age_s=0.4, outbox_bytes=1_000_000)
    text = "0123456789abcdef" * 2 * 1024 * 1024

    def listen_slowly() -> bytes:
        chunks: list[bytes] = []
        while not chunks or not chunks[-1].endswith(b'"behind"},"seq":2}'):
            chunks.append(peer.socket.recv(131_072))
            assert chunks[-1], "it was closed"
            time.sleep(0.005)
        return b"".join(chunks)

    peer = await deferToThread(lambda: Peer(gate, receive=65_536).join())
    begin = time.monotonic()
    gate.broadcast("agent", text=text)
    gate.broadcast("agent", text="behind")
    data = await deferToThread(listen_slowly)
    assert time.monotonic() - begin > 1
    assert log == []
    peer._take(data)
    long, behind = (
        json.loads(payload)["payload"]["text"] for opcode, payload in peer.frames if opcode == 1
    )
    assert (long == text, behind) == (True, "behind")
    assert any(opcode == 9 for opcode, _ in peer.frames), "it was never silent"
    await gate.stop()


@pytest_twisted.ensureDeferred
async def test_a_black_hole_is_found(log: list[LogEvent]) -> None:
    """Peers that are gone without a word end after ping and patience, with and without bytes on the way."""
    gate = Gate(ping_silence_s=0.2, ping_timeout_s=0.3)
    await at_once(lambda _: Peer(gate, receive=4096).join(), [0, 1])
    gate.factory.open_connections[0].deliver(Event("agent", {"text": "x" * 10_000_000}))
    begin = time.monotonic()
    await gate.until(lambda: all(c.closing for c in gate.factory.open_connections))
    assert time.monotonic() - begin > 0.4
    await gate.until(lambda: not len(gate.factory))
    assert [line["cause"] for line in log] == ["keepalive-timeout"] * 2
    await gate.stop()


@pytest_twisted.ensureDeferred
async def test_waves_of_losses_leave_nothing() -> None:
    """After waves of connections that are reset at any stage no object, place or timer is left."""
    gate = Gate()

    def come_and_go(number: int) -> None:
        peer = Peer(gate)
        if number % 3:
            peer.join()
        if number % 3 == 2:
            peer.send(b'{"type":"req","id":"1","method":"agent.wait","params":{"runId":"x"}}')
        (peer.reset if number % 2 else peer.socket.close)()

    for _ in range(5):
        await at_once(come_and_go, list(range(100)))
        await gate.until(lambda: not len(gate.factory))
    edge = gate.wiring.edge
    assert len(gate.wiring.services.hub) == len(edge.strangers) == len(edge.deadlines) == 0
    assert len(edge.farewells) == 0
    gc.collect()
    left = [
        o for o in gc.get_objects() if isinstance(o, GatewayProtocol) and o.factory is gate.factory
    ]
    assert left == []
    await gate.stop()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and a certificate of its own."""
    from tests.integration.test_port_real import certificate as made

    path: Path = made.__wrapped__(tmp_path)  # type: ignore[attr-defined]
    return path


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest_twisted.ensureDeferred
async def test_the_same_under_tls(certificate: Path, log: list[LogEvent]) -> None:
    """Under TLS too a peer that reads sees its 1008, one that does not is cut, and a late close is quiet."""
    gate = Gate(
        f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}",
        outbox_bytes=100_000,
    )
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    peers = await at_once(lambda _: Peer(gate, receive=16_384, tls=context).join(), list(range(10)))
    connections = gate.factory.open_connections
    slow(gate)
    assert all(connection.pending_bytes < 200_000 for connection in connections)
    seen = await at_once(Peer.closed, peers[1:])
    assert seen == [(1008, "slow consumer")] * 9
    await gate.until(lambda: not len(gate.factory))
    assert [line["cause"] for line in log] == ["slow-consumer"] * 10
    for connection in connections:
        connection.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart")
        connection.abort()
    await gate.stop()
