"""gateway.net.http and gateway.net.site: every answer of the HTTP side, byte for byte where it counts."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest
from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.logger import LogEvent
from twisted.web.resource import Resource

from gateway.net.http import make_root
from gateway.net.port import SwitchFactory
from gateway.net.site import MAX_BODY, Site
from gateway.testing import FakeClock
from tests.net.wire import Fast, Wire, head, masked, upgrade, websocket_factory

TOKEN = "correct horse"


class FakeProbes:
    """A gateway that is well, until told otherwise."""

    version = "1.2.3"

    def __init__(self) -> None:
        self.is_live = True
        self.is_started = True
        self.broken: list[str] = []

    def live(self) -> bool:
        return self.is_live

    def started(self) -> bool:
        return self.is_started

    def failing(self) -> list[str]:
        return list(self.broken)

    def uptime_ms(self) -> int:
        return 1234


class Answer:
    """One parsed response, and what came behind it."""

    def __init__(self, data: bytes, *, body: bool = True) -> None:
        top, _, rest = data.partition(b"\r\n\r\n")
        status, *lines = top.decode().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in lines)
        }
        length = int(self.headers["content-length"]) if body else 0
        self.body, self.rest = rest[:length], rest[length:]

    def json(self) -> Any:
        """Return the decoded body."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class Web:
    """The gateway's port with its HTTP side."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.probes = FakeProbes()
        self.root = make_root(
            self.probes,
            authorize=lambda bearer: bearer == TOKEN,
            exposition=lambda: b"gateway_up 1\n",
        )
        sockets = websocket_factory(Fast, self.clock, openHandshakeTimeout=0)
        self.site = Site(self.root, self.clock, websocket=sockets)
        self.factory = SwitchFactory(sockets, self.site, self.clock)

    def connect(self, peer: Any = None) -> Wire:
        """Return the wire of a new connection from an address; loopback by default."""
        wire = Wire()
        if peer is not None:
            wire.peerAddr = peer
        wire.connect(self.factory.buildProtocol(wire.getPeer()))
        return wire

    def ask(self, data: bytes, *, host: str = "127.0.0.1", peer: Any = None) -> Answer:
        """Send a request on a connection of its own and return the answer."""
        wire = self.connect(peer or Wire(host).getPeer())
        wire.receive(data)
        method = data.partition(b" ")[0]
        return Answer(wire.sent, body=method != b"HEAD")


@pytest.fixture
def web() -> Web:
    """A gateway's port."""
    return Web()


PATHS = ["/", "/health", "/healthz", "/ready", "/readyz", "/startup", "/startupz", "/metrics"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/healthz", {"ok": True, "status": "live"}),
        ("/readyz", {"ready": True, "failing": [], "uptimeMs": 1234}),
        (
            "/startupz",
            {"ok": True, "status": "started", "version": "1.2.3", "uptimeMs": 1234},
        ),
    ],
)
def test_probes_of_a_gateway_that_is_well(web: Web, path: str, expected: Any) -> None:
    """A probe of a gateway that is well is 200, under both of its names, and is not to be kept."""
    for name in (path, path.removesuffix("z"), path + "?x=1"):
        answer = web.ask(head(name))
        assert (answer.status, answer.json()) == (200, expected)
        assert answer.headers["cache-control"] == "no-store"


def test_probes_of_a_gateway_that_starts(web: Web) -> None:
    """While it starts, ready and startup are 503 and name what they wait for; it is live already."""
    web.probes.is_started = False
    web.probes.broken = ["store", "agent main"]
    ready = web.ask(head("/readyz"))
    assert (ready.status, ready.json()["failing"]) == (503, ["store", "agent main"])
    startup = web.ask(head("/startupz"))
    assert (startup.status, startup.json()["status"]) == (503, "starting")
    assert startup.json()["pendingReason"] == "store, agent main"
    assert web.ask(head("/healthz")).status == 200


def test_stalled_gateway(web: Web) -> None:
    """A gateway that does not do its work says so with 503."""
    web.probes.is_live = False
    answer = web.ask(head("/healthz"))
    assert (answer.status, answer.json()) == (503, {"ok": False, "status": "stalled"})


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("192.0.2.7", {}),
        ("127.0.0.1", {"X_Forwarded_For": "127.0.0.1"}),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", {"X_Real_IP": "127.0.0.1"}),
        ("::ffff:192.0.2.7", {}),
        ("not an address", {}),
    ],
)
def test_strangers_get_no_details(web: Web, host: str, headers: dict[str, str]) -> None:
    """Who comes from elsewhere or through a proxy gets the state and no details."""
    web.probes.broken = ["store"]
    web.probes.is_started = False
    assert web.ask(head("/readyz", **headers), host=host).json() == {"ready": False}
    startup = web.ask(head("/startupz", **headers), host=host)
    assert startup.json() == {"ok": False, "status": "starting"}


@pytest.mark.parametrize(
    "peer",
    [
        Wire("127.8.9.1").getPeer(),
        IPv6Address("TCP", "::1", 1),
        IPv6Address("TCP", "::ffff:127.0.0.1", 1),
        UNIXAddress(None),
    ],
)
def test_local_callers_get_details(web: Web, peer: Any) -> None:
    """Every form of loopback, and a UNIX socket, is local."""
    assert "uptimeMs" in web.ask(head("/readyz"), peer=peer).json()


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(web: Web, path: str) -> None:
    """HEAD answers with the headers of GET and no body."""
    got = web.ask(head(path, Authorization=f"Bearer {TOKEN}"))
    only = web.ask(head(path, "HEAD", Authorization=f"Bearer {TOKEN}"))
    got.headers.pop("date"), only.headers.pop("date")
    assert (only.status, only.headers, only.rest) == (got.status, got.headers, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", PATHS)
def test_other_methods(web: Web, path: str, method: str) -> None:
    """Another method on a path that exists is 405 and names those allowed."""
    answer = web.ask(head(path, method))
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/health/",
        "/healthz/x",
        "/ready/deep/er",
        "/metrics/",
        "//",
        "/favicon.ico",
        "/v1/models",
        "/api",
        "*",
        "/HEALTHZ",
        "/%2e%2e/healthz",
        "/healthz%00",
    ],
)
def test_unknown_paths(web: Web, path: str, method: str) -> None:
    """What is not there is 404 in plain text, whatever the method."""
    answer = web.ask(head(path, method))
    assert (answer.status, answer.body) == (404, b"Not Found")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_absolute_target(web: Web) -> None:
    """A target in absolute form, as proxies send it, is found."""
    assert web.ask(head("http://gw.example:18789/healthz")).status == 200
    assert web.ask(head("http://gw.example")).headers["content-type"].startswith("text/html")


def test_page(web: Web) -> None:
    """The page is HTML that may load nothing but its own style."""
    answer = web.ask(head("/"))
    html = answer.body.decode()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-frame-options"] == "DENY"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = b64encode(sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in policy
    assert not re.search(r"<script|style=|\son\w+=|(?:src|href)=\"(?!data:|/\w+z\")", html)
    assert '<html lang="en">' in html
    assert len(answer.body) < 8000


def test_page_links_lead_somewhere(web: Web) -> None:
    """Every link of the page is answered."""
    links = re.findall(r'href="(/[^"]*)"', web.ask(head("/")).body.decode())
    assert links
    assert [web.ask(head(link)).status for link in links] == [200] * len(links)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer \xff", f"Bearer {TOKEN}x"],
)
def test_metrics_need_the_token(web: Web, authorization: str) -> None:
    """Without the right bearer token the metrics are 401, as JSON, and say which proof is asked for."""
    answer = web.ask(head("/metrics", Authorization=authorization))
    assert answer.status == 401
    assert answer.json() == {"error": {"message": "Unauthorized", "type": "unauthorized"}}
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_metrics(web: Web) -> None:
    """With the token the metrics are Prometheus text; the scheme may be written in any case."""
    for scheme in ("Bearer", "bearer"):
        answer = web.ask(head("/metrics", Authorization=f"{scheme} {TOKEN}"))
        assert (answer.status, answer.body) == (200, b"gateway_up 1\n")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_two_authorizations_are_none(web: Web) -> None:
    """Two Authorization headers prove nothing."""
    data = head("/metrics", Authorization=f"Bearer {TOKEN}", authorization=f"Bearer {TOKEN}")
    assert web.ask(data).status == 401


ANYTHING = [
    *(head(path) for path in PATHS),
    head("/nope"),
    head("/healthz", "POST"),
    head("/healthz", version="HTTP/1.0"),
    head("/", "POST", Content_Length="70000"),
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    head("/", Content_Length="1", Transfer_Encoding="chunked"),
    head("/", Content_Length="x"),
    b"x" * 20_000,
    upgrade(Sec_WebSocket_Version="7"),
    upgrade(Sec_WebSocket_Key="short"),
]


@pytest.mark.parametrize("data", ANYTHING, ids=lambda data: repr(data[:30]))
def test_every_response_is_guarded(web: Web, data: bytes) -> None:
    """Every response, to whatever was sent, has the security headers and tells no software."""
    answer = web.ask(data)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "permissions-policy" in answer.headers
    assert "server" not in answer.headers
    assert "twisted" not in str(answer.headers).lower()


@pytest.mark.parametrize(
    "data",
    [
        head("/healthz", "POST", Content_Length=str(MAX_BODY + 1)),
        head("/healthz", "POST", Transfer_Encoding="chunked")
        + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 3
        + b"0\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
def test_large_bodies_are_refused(web: Web, data: bytes) -> None:
    """A body over 64 KiB is 413, said or sent; what still comes of it is dropped."""
    wire = web.connect()
    for at in range(0, len(data), 10_000):
        wire.receive(data[at : at + 10_000])
    assert Answer(wire.sent).status == 413
    wire.receive(b"x" * 100_000)
    assert wire.sent.count(b"HTTP/1.1") == 1
    web.clock.advance(1)
    assert wire.log[-1] == ("abort",)


def test_small_body_is_read(web: Web) -> None:
    """A body of 64 KiB is read to its end, and the next request on the connection is answered."""
    wire = web.connect()
    wire.receive(head("/healthz", "POST", Content_Length=str(MAX_BODY)))
    wire.receive(b"x" * MAX_BODY + head("/healthz"))
    first = Answer(wire.sent)
    assert (first.status, Answer(first.rest).status) == (405, 200)


def test_connection_is_kept(web: Web) -> None:
    """Requests on one connection are answered in order, also those sent at once."""
    wire = web.connect()
    wire.receive(head("/healthz") + head("/nope") + head("/readyz"))
    first = Answer(wire.sent)
    second = Answer(first.rest)
    third = Answer(second.rest)
    assert [first.status, second.status, third.status] == [200, 404, 200]
    assert third.rest == b""


def test_connection_close_is_obeyed(web: Web) -> None:
    """A client that asks for it, or speaks HTTP/1.0, is closed after its answer."""
    for data in (head("/healthz", Connection="close"), head("/healthz", version="HTTP/1.0")):
        wire = web.connect()
        wire.receive(data)
        assert Answer(wire.sent).status == 200
        assert wire.log[-1] == ("lose",)


def test_idle_connection_is_closed(web: Web) -> None:
    """An HTTP connection that is idle for 30 s is closed."""
    wire = web.connect()
    wire.receive(head("/healthz"))
    web.clock.advance(29)
    assert ("lose",) not in wire.log
    web.clock.advance(2)
    assert ("lose",) in wire.log
    wire.lose()
    assert web.clock.getDelayedCalls() == []


def test_websocket_after_http(web: Web) -> None:
    """An upgrade on a connection that served HTTP becomes a WebSocket, as proxies make them."""
    wire = web.connect()
    wire.receive(head("/healthz"))
    wire.clear()
    wire.receive(upgrade("/path?q=1") + masked(b"hello"))
    assert wire.sent.startswith(b"HTTP/1.1 101 ")
    assert wire.sent.endswith(b"\x81\x08re:hello")
    wire.receive(masked(b"again"))
    assert wire.protocol.events == [("message", b"hello", False), ("message", b"again", False)]
    assert wire.protocol.http_request_path == "/path"
    wire.protocol.registerProducer(wire.protocol, True)
    web.clock.advance(100)
    assert ("lose",) not in wire.log
    wire.lose()
    assert web.clock.getDelayedCalls() == []


def test_no_websocket_after_http(web: Web) -> None:
    """A site without WebSockets refuses the upgrade."""
    web.site.websocket = None
    wire = web.connect()
    wire.receive(head("/healthz"))
    wire.clear()
    wire.receive(upgrade())
    assert Answer(wire.sent).status == 503


def test_other_upgrades_are_ignored(web: Web) -> None:
    """An upgrade to something else is answered as if it had not been asked for."""
    wire = web.connect()
    wire.receive(head("/healthz"))
    wire.clear()
    wire.receive(head("/healthz", Upgrade="h2c"))
    assert Answer(wire.sent).status == 200


def test_broken_resource(
    web: Web, logged_failures: list[LogEvent], expected_failures: list[type[BaseException]]
) -> None:
    """A resource that raises is logged and answered 500 without its text."""
    expected_failures.append(LookupError)

    class Broken(Resource):
        def render(self, request: Any) -> bytes:
            raise LookupError("a secret")

    web.root.putChild(b"broken", Broken())
    answer = web.ask(head("/broken"))
    assert (answer.status, answer.body) == (500, b"Internal Server Error")
    assert len(logged_failures) == 1


def test_resource_that_answers_later(web: Web) -> None:
    """A resource may keep the request and write to it by and by."""
    kept: list[Any] = []

    class Later(Resource):
        def render(self, request: Any) -> Any:
            kept.append(request)
            return 1  # twisted.web's NOT_DONE_YET

    web.root.putChild(b"later", Later())
    wire = web.connect()
    wire.receive(head("/later"))
    assert wire.sent == b""
    (request,) = kept
    request.setHeader(b"Content-Length", b"2")
    request.write(b"ok")
    request.finish()
    assert Answer(wire.sent).body == b"ok"


def test_site_starts_no_timer(web: Web) -> None:
    """Starting and stopping the site leaves no timer, and drops who still reads a refusal."""
    web.factory.doStart()
    assert web.clock.getDelayedCalls() == []
    wire = web.connect()
    wire.receive(head("/healthz", "POST", Content_Length=str(MAX_BODY + 1)))
    web.factory.doStop()
    assert ("abort",) in wire.log
    assert web.clock.getDelayedCalls() == []
