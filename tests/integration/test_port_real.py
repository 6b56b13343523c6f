"""The port on real sockets: one port for both protocols, TLS, losses, backpressure, refusals."""

from __future__ import annotations

import datetime
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThread

from gateway.errors import StartError
from gateway.net.callers import UNKNOWN
from gateway.net.fastpath import SLICE, FastPathMixin, frame, prepare
from gateway.net.http import make_root
from gateway.net.listen import BACKLOG, listen
from gateway.net.port import SwitchFactory
from gateway.net.site import Site
from gateway.net.transport import FastPort, FastServer
from gateway.testing import FakeClock
from tests.net.wire import head, masked, upgrade, websocket_factory

pytestmark = pytest.mark.integration
reactor: Any = _reactor


class Echo(FastPathMixin):
    """Answers messages; tells the test what becomes of it."""

    def onOpen(self) -> None:
        self.paused = 0
        self.no_delay = self.transport.getTcpNoDelay()
        self.transport.registerProducer(self, True)
        self.factory.opened.append(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.send_frame_bytes(frame(b"re:" + payload))

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        self.factory.closed.append((wasClean, code))
        if self.factory.on_closed:
            self.factory.on_closed.pop().callback(None)

    def pauseProducing(self) -> None:
        self.paused += 1

    def resumeProducing(self) -> None:
        self.factory.resumed.callback(None)

    def stopProducing(self) -> None:
        pass


class FakeProbes:
    """A gateway that is well."""

    version = "1"

    def live(self) -> bool:
        return True

    def started(self) -> bool:
        return True

    def failing(self) -> list[str]:
        return []

    def reasons(self) -> dict[str, str]:
        return {}

    def uptime_ms(self) -> int:
        return 1

    def event_loop(self) -> None:
        return None


class Served:
    """A port that listens on real sockets."""

    def __init__(self, spec: str) -> None:
        self.sockets: Any = websocket_factory(
            Echo, FakeClock(), openHandshakeTimeout=0, closeHandshakeTimeout=1
        )
        prepare(self.sockets, reactor)
        self.sockets.opened, self.sockets.closed, self.sockets.on_closed = [], [], []
        self.sockets.resumed = Deferred()
        root = make_root(FakeProbes(), authorize=lambda request: UNKNOWN, exposition=bytes)
        site = Site(root, reactor, websocket=self.sockets)
        self.factory = SwitchFactory(self.sockets, site, reactor)
        (self.listener,) = listen([spec], self.factory, reactor)
        self.address: Any = self.listener.port.getHost()

    def next_close(self) -> Deferred[None]:
        """Fire when the next WebSocket is over."""
        done: Deferred[None] = Deferred()
        self.sockets.on_closed.append(done)
        return done

    def dial(self) -> socket.socket:
        """Return a connected client socket, blocking, with a time limit."""
        return socket.create_connection((self.address.host, self.address.port), timeout=20)

    async def stop(self) -> None:
        """Stop listening, and end what is still connected."""
        for protocol in self.sockets.opened:
            protocol.dropConnection(abort=True)
        await maybeDeferred(self.listener.stopListening)


@pytest_twisted.async_yield_fixture
async def served() -> AsyncIterator[Served]:
    """A port on loopback."""
    port = Served("127.0.0.1:0")
    yield port
    await port.stop()


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Read until the data ends in ``end``; fail if the peer closes before."""
    data = b""
    while not data.endswith(end):
        piece = client.recv(65_536)
        assert piece, f"closed after {data!r}"
        data += piece
    return data


def read_all(client: socket.socket) -> bytes:
    """Read until the peer closes."""
    return b"".join(iter(lambda: client.recv(65_536), b""))


def open_websocket(client: socket.socket) -> None:
    """Do the opening handshake."""
    client.sendall(upgrade())
    assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")


def reset(client: socket.socket) -> None:
    """Close with a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest_twisted.ensureDeferred
async def test_both_protocols_on_one_port(served: Served) -> None:
    """The same port answers HTTP and WebSockets, the latter on the fast transport without delay."""

    def client() -> tuple[bytes, bytes]:
        with served.dial() as web:
            web.sendall(head("/healthz"))
            answer = read_until(web, b"}")
        with served.dial() as ws:
            open_websocket(ws)
            ws.sendall(masked(b"one") + masked(b"two"))
            return answer, read_until(ws, b"re:two")

    answer, messages = await deferToThread(client)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert messages == b"\x81\x06re:one\x81\x06re:two"
    (opened,) = served.sockets.opened
    assert isinstance(opened.transport, FastServer)
    assert opened.no_delay


@pytest_twisted.ensureDeferred
async def test_losses_leave_nothing(served: Served) -> None:
    """Resets and closes at every stage leave no undecided peer and no WebSocket behind."""

    def client() -> None:
        stages: list[bytes] = [b"", b"GET / HT", upgrade()[:-2], head("/healthz")]
        for stage in stages:
            for end in (reset, socket.socket.close):
                client = served.dial()
                client.sendall(stage)
                end(client)
        for stage in (b"", masked(b"hello")[:4], masked(b"hello")):
            for end in (reset, socket.socket.close):
                client = served.dial()
                open_websocket(client)
                client.sendall(stage)
                end(client)

    closes = [served.next_close() for _ in range(6)]
    await deferToThread(client)
    for done in closes:
        await done
    assert [code for _, code in served.sockets.closed] == [1006] * 6
    assert served.factory.undecided == 0
    assert served.sockets.countConnections == 0


@pytest_twisted.ensureDeferred
async def test_backpressure(served: Served) -> None:
    """A peer that does not read pauses us with at most 64 KiB pending, and then gets every byte."""
    client = await deferToThread(served.dial)
    await deferToThread(open_websocket, client)
    (protocol,) = served.sockets.opened
    total = 0
    payload = frame(b"x" * (SLICE - 4))
    while not protocol.paused:
        protocol.send_frame_bytes(payload)
        total += len(payload)
    assert 0 < protocol.pending_bytes <= 65_536

    def read() -> int:
        got = 0
        while got < total:
            got += len(client.recv(1 << 20))
        return got

    assert await deferToThread(read) == total
    await served.sockets.resumed
    assert protocol.pending_bytes == 0
    client.close()
    await served.next_close()


@pytest_twisted.ensureDeferred
async def test_send_to_a_peer_that_is_gone(served: Served) -> None:
    """Sending to a peer that reset raises nothing; the reactor reports the loss."""
    client = await deferToThread(served.dial)
    await deferToThread(open_websocket, client)
    (protocol,) = served.sockets.opened
    done = served.next_close()
    protocol.transport.pauseProducing()  # the reset is met by a send, not by a read
    reset(client)
    for _ in range(20):
        protocol.send_frame_bytes(frame(b"x" * 1000))
    await done
    assert served.sockets.closed == [(False, 1006)]


@pytest_twisted.ensureDeferred
async def test_refusal_is_readable(served: Served) -> None:
    """A client that sends far more than the limit can still read why it is refused."""

    def client(data: bytes) -> bytes:
        with served.dial() as web:
            web.sendall(data)
            return read_all(web)

    large = head("/", "POST", Content_Length="200000") + b"x" * 200_000
    assert (await deferToThread(client, large)).startswith(b"HTTP/1.1 413 ")
    flood = b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000
    assert (await deferToThread(client, flood)).startswith(b"HTTP/1.1 431 ")


@pytest_twisted.ensureDeferred
async def test_client_that_closes_its_half(served: Served) -> None:
    """A client that sends a request and closes its half still gets the answer."""

    def client() -> bytes:
        with served.dial() as web:
            web.sendall(head("/healthz"))
            web.shutdown(socket.SHUT_WR)
            return read_all(web)

    assert (await deferToThread(client)).endswith(b'{"ok":true,"status":"live"}')


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and a certificate of its own for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway test")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36_500))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "both.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest_twisted.ensureDeferred
async def test_tls(certificate: Path) -> None:
    """Under TLS the port serves both protocols too, and a refusal closes the layer."""
    port = Served(f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}")
    assert port.listener.url == f"wss://127.0.0.1:{port.address.port}"
    assert isinstance(port.listener.port, FastPort)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def client() -> list[bytes]:
        got = []
        with context.wrap_socket(port.dial()) as web:
            web.sendall(head("/healthz"))
            got.append(read_until(web, b"}"))
        with context.wrap_socket(port.dial()) as ws:
            open_websocket(ws)
            ws.sendall(masked(b"x" * 100_000))
            got.append(read_until(ws, b"x" * 100_000))
            ws.sendall(masked(b"\x03\xe8", 8))
            got.append(read_until(ws, b"\x88\x02\x03\xe8"))
        with context.wrap_socket(port.dial()) as flood:
            flood.sendall(b"x" * 20_000)
            got.append(read_until(flood, b"bytes\n"))
        reset(port.dial())
        return got

    done = port.next_close()
    answers = await deferToThread(client)
    await done
    assert [answer[:12] for answer in (answers[0], answers[3])] == [
        b"HTTP/1.1 200",
        b"HTTP/1.1 431",
    ]
    assert len(answers[1]) == 100_003 + 10
    assert port.sockets.closed == [(True, 1000)]
    await port.stop()


# -- listening


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 that another listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("spec", "host"),
    [
        ("127.0.0.1:0", "127.0.0.1"),
        ("localhost:0", "127.0.0.1"),
        ("0.0.0.0:0", "0.0.0.0"),
        ("tcp:0:interface=127.0.0.1", "127.0.0.1"),
        ("[::1]:0", "[::1]"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_listening(spec: str, host: str) -> None:
    """Addresses and tcp endpoints listen with the fast transport, and tell the port that they got."""
    port = Served(spec)
    listening: Any = port.listener.port
    assert isinstance(listening, FastPort)
    assert listening.backlog == BACKLOG
    assert port.address.port != 0
    assert port.listener.url == f"ws://{host}:{port.address.port}"
    await port.stop()


@pytest_twisted.ensureDeferred
async def test_port_in_use(taken: int) -> None:
    """A port in use is one line in plain words, and ports that listened before it are closed."""
    for spec in (f"127.0.0.1:{taken}", f"tcp:{taken}:interface=127.0.0.1"):
        with pytest.raises(StartError) as caught:
            Served(spec)
        assert str(caught.value) == (
            f"cannot listen on {spec}: address already in use (server.listen)"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        first = free.getsockname()[1]
    factory = SwitchFactory(websocket_factory(Echo, FakeClock()), Site(None, reactor), reactor)  # type: ignore[arg-type]
    with pytest.raises(StartError):
        listen([f"127.0.0.1:{first}", f"127.0.0.1:{taken}"], factory, reactor)
    await deferToThread(lambda: None)  # the reactor turns once: the first port is closed
    again = Served(f"127.0.0.1:{first}")
    await again.stop()


def test_address_that_is_not_here() -> None:
    """An address of another host is refused by the system, in its words."""
    with pytest.raises(StartError, match="cannot assign requested address"):
        Served("192.0.2.1:0")
