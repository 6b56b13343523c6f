"""gateway.net.port: one head is read, then the transport belongs to who the head asks for."""

from __future__ import annotations

from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.testing import StringTransport

from gateway.net.port import (
    LINGER_S,
    MAX_HEAD,
    MAX_HEADERS,
    MAX_REQUEST_LINE,
    SwitchFactory,
    hand_over,
    refusal,
    wants_websocket,
)
from gateway.net.site import Site
from gateway.net.turnstile import Turnstile
from gateway.testing import FakeClock
from tests.net.web import Web
from tests.net.wire import Fast, Wire, head, masked, pair, upgrade, websocket_factory


class Taker(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.got = b""
        self.lost = 0

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost += 1


class Takers(ServerFactory):
    """Makes Takers, unless it is full."""

    noisy = False
    full = False

    def __init__(self) -> None:
        self.made: list[Taker] = []
        self.addresses: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        if self.full:
            return None
        self.addresses.append(addr)
        taker = Taker()
        taker.factory = self
        self.made.append(taker)
        return taker


class Port:
    """A switch between two factories of Takers."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.websocket = Takers()
        self.http = Takers()
        self.factory = SwitchFactory(self.websocket, self.http, self.clock, head_timeout=15.0)

    def connect(self) -> Wire:
        """Return the wire of a new connection."""
        wire = Wire()
        wire.connect(self.factory.buildProtocol(wire.getPeer()))
        return wire


UPGRADES = [
    upgrade(),
    upgrade("/any/path?x=1"),
    upgrade(Upgrade="WebSocket"),
    upgrade(Upgrade="h2c, websocket"),
    b"GET / HTTP/1.1\r\nUPGRADE:websocket\r\n\r\n",
    b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n\r\n",
]
REQUESTS = [
    head(),
    head("/healthz", "HEAD"),
    head("/", "POST", Upgrade="websocket"),
    head("/", Upgrade="h2c"),
    head("/", Upgrade="websockets"),
    head("/", X_Upgrade="websocket"),
    head("/?Upgrade:websocket"),
    b"\x16\x03\x01\r\n\r\n",
]


@pytest.mark.parametrize("request_head", UPGRADES)
def test_upgrade_goes_to_the_websocket(request_head: bytes) -> None:
    """A GET that asks for the upgrade goes to the WebSocket factory, byte by byte or whole."""
    for size in (1, 7, len(request_head)):
        port = Port()
        wire = port.connect()
        stream = request_head + b"behind it"
        for at in range(0, len(stream), size):
            wire.receive(stream[at : at + size])
        assert [taker.got for taker in port.websocket.made] == [stream]
        assert port.http.made == []
        assert port.websocket.addresses == [wire.getPeer()]


@pytest.mark.parametrize("request_head", REQUESTS)
def test_everything_else_goes_to_http(request_head: bytes) -> None:
    """Any other head goes to the HTTP factory, with what came behind it."""
    port = Port()
    wire = port.connect()
    wire.receive(request_head + b"body")
    assert [taker.got for taker in port.http.made] == [request_head + b"body"]
    assert port.websocket.made == []


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_decided_alike(data: bytes, size: int) -> None:
    """Whatever is sent, the pieces it comes in don't change who gets it, and nothing is lost."""
    outcomes = []
    for step in (size, max(1, len(data))):
        port = Port()
        wire = port.connect()
        for at in range(0, len(data), step):
            wire.receive(data[at : at + step])
        outcomes.append([taker.got for taker in port.websocket.made + port.http.made])
        assert port.factory.undecided == (0 if b"\r\n\r\n" in data else 1)
    assert outcomes[0] == outcomes[1] == ([data] if b"\r\n\r\n" in data else [])


def test_nothing_of_the_switch_is_left() -> None:
    """After the decision the transport calls the protocol itself, which alone hears of the loss."""
    port = Port()
    wire = port.connect()
    assert port.factory.undecided == 1
    wire.receive(upgrade())
    (taker,) = port.websocket.made
    assert wire.protocol is taker
    assert taker.transport is wire
    assert port.factory.undecided == 0
    wire.lose()
    assert taker.lost == 1
    port.clock.advance(60)
    assert port.clock.getDelayedCalls() == []
    assert ("abort",) not in wire.log


def test_loss_before_the_decision() -> None:
    """A peer that leaves half a head behind is forgotten; no protocol hears of it."""
    port = Port()
    wire = port.connect()
    wire.receive(b"GET / HT")
    wire.lose()
    assert port.factory.undecided == 0
    assert port.websocket.made == port.http.made == []


@pytest.mark.parametrize("size", [MAX_HEAD, MAX_HEAD + 1])
@pytest.mark.parametrize("step", [1, 1000, 100_000])
def test_head_limit(size: int, step: int) -> None:
    """A head of 16 KiB before its blank line passes, one byte more is answered 431, in any pieces."""
    data = b"GET / HTTP/1.1\r\nX: "
    data += b"x" * (size - len(data)) + b"\r\n\r\n"
    port = Port()
    wire = port.connect()
    for at in range(0, len(data), step):
        wire.receive(data[at : at + step])
    assert len(port.http.made) == (size == MAX_HEAD)
    assert wire.sent.startswith(b"HTTP/1.1 431 ") is (size > MAX_HEAD)


def test_refused_peer_may_read_the_answer() -> None:
    """A refusal closes our half; what still comes is dropped, and after a second the peer too."""
    port = Port()
    wire = port.connect()
    wire.receive(b"x" * 20_000)
    assert wire.log[-1] == ("half-close",)
    wire.receive(b"x" * 1000)
    assert port.factory.undecided == 0
    port.clock.advance(LINGER_S)
    assert wire.log[-1] == ("abort",)
    wire.lose()
    port.clock.advance(15)
    assert port.clock.getDelayedCalls() == []


def test_refused_peer_that_leaves() -> None:
    """A refused peer that has read the answer and closes is not aborted."""
    port = Port()
    wire = port.connect()
    wire.receive(b"x" * 20_000)
    wire.lose()
    port.clock.advance(5)
    assert ("abort",) not in wire.log


def test_silence_is_dropped_at_the_deadline() -> None:
    """A peer that sends nothing is dropped after the head's time, not before."""
    port = Port()
    wire = port.connect()
    port.clock.advance(14.9)
    assert wire.log == []
    port.clock.advance(0.2)
    assert wire.log == [("abort",)]


def test_dripping_does_not_extend_the_deadline() -> None:
    """Half a head is answered 408 at the deadline, however lately its last byte came."""
    port = Port()
    wire = port.connect()
    for _ in range(14):
        port.clock.advance(1)
        wire.receive(b"x")
    port.clock.advance(1)
    assert wire.sent.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    wire.receive(b"x\r\n\r\n")
    assert port.http.made == []


def test_one_timer_for_all() -> None:
    """A thousand undecided peers have one timer, and each its own deadline."""
    port = Port()
    wires = []
    for _ in range(1000):
        wires.append(port.connect())
        port.clock.advance(0.002)
    assert len(port.clock.getDelayedCalls()) == 1
    assert port.factory.undecided == 1000
    port.clock.advance(14.0)
    for _ in range(200):  # a few in each turn of the loop
        port.clock.advance(0)
    assert 400 < port.factory.undecided < 600
    assert [("abort",) in wire.log for wire in (wires[0], wires[999])] == [True, False]
    port.clock.advance(1)
    for _ in range(200):
        port.clock.advance(0)
    assert port.factory.undecided == 0
    assert port.clock.getDelayedCalls() == []


def test_full_factory_is_answered_503() -> None:
    """A factory that makes no protocol refuses with 503."""
    port = Port()
    port.websocket.full = True
    wire = port.connect()
    wire.receive(upgrade())
    assert wire.sent.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


def test_stop_drops_the_undecided() -> None:
    """With the last port the factories stop, and so do the peers and timers of the switch."""
    port = Port()
    port.factory.doStart()
    assert (port.websocket.numPorts, port.http.numPorts) == (1, 1)
    undecided, refused = port.connect(), port.connect()
    refused.receive(b"x" * 20_000)
    port.factory.doStop()
    assert ("abort",) in undecided.log
    assert ("abort",) in refused.log
    assert (port.websocket.numPorts, port.http.numPorts) == (0, 0)
    assert port.clock.getDelayedCalls() == []


def test_unknown_transport_is_forwarded() -> None:
    """On a transport that does not name its protocol the switch passes on what it gets."""
    port = Port()
    transport = StringTransport()
    switch = port.factory.buildProtocol(None)
    switch.makeConnection(transport)
    switch.dataReceived(upgrade())
    switch.dataReceived(b"more")
    switch.connectionLost(None)  # type: ignore[arg-type]
    (taker,) = port.websocket.made
    assert taker.got == upgrade() + b"more"
    assert taker.lost == 1


def test_tls_layer_is_handed_over() -> None:
    """Under Twisted's TLS layer the protocol takes the switch's place in the layer."""

    class Layer(Wire):
        wrappedProtocol: Any = None  # noqa: N815 - Twisted's name

    layer = Layer()
    old, new = Taker(), Taker()
    layer.protocol = layer.wrappedProtocol = old
    hand_over(layer, old, new, b"head")
    assert (layer.wrappedProtocol, new.got, new.transport) == (new, b"head", layer)
    layer = Layer()
    port = Port()
    layer.wrappedProtocol = switch = port.factory.buildProtocol(None)
    switch.makeConnection(layer)
    switch.dataReceived(b"x" * 20_000)
    assert layer.log[-1] == ("lose",)


def test_websocket_end_to_end_in_memory() -> None:
    """A real client opens a WebSocket through the switch and gets its answers."""
    clock = FakeClock()
    factory = SwitchFactory(websocket_factory(Fast, clock), Takers(), clock)
    got: list[bytes] = []

    class Client(WebSocketClientProtocol):  # type: ignore[misc]
        def onOpen(self) -> None:
            self.sendMessage(b"hi")

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            got.append(payload)

    clients = WebSocketClientFactory("ws://127.0.0.1:18789", reactor=clock)
    clients.protocol = Client
    clients.setProtocolOptions(openHandshakeTimeout=0)
    _, client, pump = pair(factory, clients)
    pump.flush()
    assert got == [b"re:hi"]
    client.sendMessage(b"again")
    pump.flush()
    assert got == [b"re:hi", b"re:again"]


def test_fragment_behind_the_head() -> None:
    """Bytes of the first frame that come in one read with the head are not lost."""
    clock = FakeClock()
    factory = SwitchFactory(websocket_factory(Fast, clock), Takers(), clock)
    wire = Wire()
    wire.connect(factory.buildProtocol(wire.getPeer()))
    wire.receive(upgrade() + masked(b"hello")[:3])
    wire.receive(masked(b"hello")[3:])
    assert wire.protocol.events == [("message", b"hello", False)]


def test_wants_websocket_reads_headers_only() -> None:
    """The request line does not count as a header."""
    assert wants_websocket(upgrade())
    assert not wants_websocket(b"GET /\x0d\x0aupgrad: websocket\r\n\r\n")
    assert not wants_websocket(b"PUT / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")


def test_refusal_is_a_whole_response() -> None:
    """A refusal has a length, the security headers, and the text without control characters."""
    answer = refusal(400, "bad \x00\r\nInjected: é", [("Allow", "GET")])
    top, _, body = answer.partition(b"\r\n\r\n")
    assert top.splitlines()[0] == b"HTTP/1.1 400 Bad Request"
    assert b"Connection: close" in top
    assert b"Allow: GET" in top
    assert b"X-Content-Type-Options: nosniff" in top
    assert b"Content-Length: %d" % len(body) in top
    assert body == b"bad ???Injected: ?\n"
    assert refusal(499).startswith(b"HTTP/1.1 499 Refused\r\n")


def test_a_long_request_line_is_refused() -> None:
    """A first line over 8 KiB is answered 414, on a first request; one of 8 KiB is taken."""
    web = Web()
    wire = web.connect()
    wire.receive(head("/" + "x" * MAX_REQUEST_LINE))
    assert wire.sent.startswith(b"HTTP/1.1 414 ")
    fits = web.connect()
    fits.receive(head("/" + "x" * (MAX_REQUEST_LINE - len("GET / HTTP/1.1"))))
    assert fits.sent.startswith(b"HTTP/1.1 404 ")


def test_many_headers_are_refused() -> None:
    """Over 100 header lines are answered 431, for WebSockets too; 100 are taken."""
    web = Web()
    for build in (head, upgrade):
        wire = web.connect()
        wire.receive(build(**{f"X_{number}": "1" for number in range(MAX_HEADERS)}))
        assert wire.sent.startswith(b"HTTP/1.1 431 ")
    fits = web.connect()
    fits.receive(head("/healthz", **{f"X_{number}": "1" for number in range(MAX_HEADERS - 1)}))
    assert fits.sent.startswith(b"HTTP/1.1 200 ")
    fits.receive(head("/healthz", **{f"X_{number}": "1" for number in range(MAX_HEADERS + 20)}))
    assert b"HTTP/1.1 400 " in fits.sent, "on a connection that has served a request before"


def test_the_time_in_line_is_not_the_peer_s() -> None:
    """A head whose time is over while its peer stands in line has its time once more, and not for ever."""
    web = Web()
    wire = web.connect()
    for again in (True, False):
        web.clock.advance(14.999)
        web.factory.turnstile._pay(1.0)
        wire.receive(b"GET")
        assert len(web.factory.turnstile) == 1
        web.clock.advance(0.001)
        assert (b" 408 " not in wire.sent) == again


def test_strangers_of_a_gateway_share_one_turnstile() -> None:
    """A port and its pages take the turnstile that they are given, though nobody stands in its lines."""
    clock = FakeClock()
    turnstile = Turnstile(clock)
    site = Site(None, clock, turnstile=turnstile)  # type: ignore[arg-type]
    factory = SwitchFactory(Takers(), site, clock, turnstile=turnstile)

    assert len(turnstile) == 0
    assert factory.turnstile is turnstile
    assert site.turnstile is turnstile
