"""gateway.net.site: connections, bodies, upgrades, and the same rules for every response."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent
from twisted.web.resource import Resource

from gateway.net.callers import TRUSTED, Verdict
from gateway.net.http import Ready
from gateway.net.site import IDLE_S, MAX_BODY
from tests.net.web import PATHS, Answer, Web
from tests.net.wire import Wire, head, masked, upgrade


@pytest.fixture
def web() -> Web:
    """A gateway's port."""
    return Web()


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
    head("/", Content_Length="9" * 5000),
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


@pytest.mark.parametrize("step", [10_000, 1_000_000])
@pytest.mark.parametrize(
    "data",
    [
        head("/healthz", "POST", Content_Length=str(MAX_BODY + 1)) + b"x" * (MAX_BODY + 1),
        head("/healthz", "POST", Transfer_Encoding="chunked")
        + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 3
        + b"0\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
def test_large_bodies_are_refused(web: Web, data: bytes, step: int) -> None:
    """A body over 64 KiB is 413, said or sent; what still comes of it is dropped."""
    wire = web.connect()
    for at in range(0, len(data), step):
        wire.receive(data[at : at + step])
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


SLOW = {
    "a body": head("/healthz", "POST", Content_Length="60000"),
    "chunks": head("/healthz", "POST", Transfer_Encoding="chunked"),
    "a second head": head("/healthz") + b"G",
}


@pytest.mark.parametrize("begun", SLOW.values(), ids=list(SLOW))
def test_nothing_extends_the_time_of_a_request(web: Web, begun: bytes) -> None:
    """Who sends a request a byte at a time is told after 30 s that it took too long (attack 14)."""
    wire = web.connect()
    wire.receive(begun)
    for _ in range(2):
        web.clock.advance(IDLE_S / 2 - 1)
        wire.receive(b"1")
    assert b" 408 " not in wire.sent
    web.clock.advance(2)
    assert b"HTTP/1.1 408 " in wire.sent
    assert len(web.site.unfinished) == 0


def test_a_request_that_takes_its_time_is_answered(web: Web) -> None:
    """Twin: one that is whole before its time is over is, and the next one has its own time."""
    wire = web.connect()
    for number in (1, 2):
        wire.receive(head("/healthz", "POST", Content_Length="3"))
        for _ in range(3):
            web.clock.advance(IDLE_S / 4)
            wire.receive(b"x")
        assert wire.sent.count(b"HTTP/1.1 ") == number
        assert len(web.site.unfinished) == 0
    web.clock.advance(IDLE_S / 4)
    assert b" 408 " not in wire.sent


@pytest.mark.parametrize("end", ["lost", "refused", "stopped"])
def test_no_time_is_left_behind(web: Web, end: str) -> None:
    """With its connection, or the port, the time of a request ends."""
    wire = web.connect()
    wire.receive(SLOW["a body"])
    assert len(web.site.unfinished) == 1
    if end == "lost":
        wire.lose()
    elif end == "refused":
        wire.receive(b"x" * 10)
        wire.protocol.refuse(503, "no")
    else:
        web.site.stopFactory()
    assert len(web.site.unfinished) == 0


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


def test_a_long_pipeline_is_cut(web: Web) -> None:
    """Eight requests of one read are answered; nobody else waits while a hundred are worked off."""
    wire = web.connect()
    wire.receive(head("/healthz") * 100)
    assert wire.sent.count(b" 200 OK\r\n") == 8
    assert wire.sent.count(b"HTTP/1.1 429 ") == 1
    patient = web.connect()
    for _ in range(20):
        patient.receive(head("/healthz") * 8)
    assert patient.sent.count(b" 200 OK\r\n") == 160


def test_who_reads_no_answers_gets_no_more(web: Web) -> None:
    """Once the transport is full a further request is refused; who has read is answered again."""
    wire = web.connect()
    wire.receive(head("/healthz"))
    wire.protocol.pauseProducing()  # as a full transport does
    wire.protocol.resumeProducing()
    wire.receive(head("/healthz"))
    assert wire.sent.count(b" 200 OK\r\n") == 2
    wire.protocol.pauseProducing()
    wire.receive(head("/healthz") * 5)
    assert wire.sent.count(b" 200 OK\r\n") == 2
    assert wire.sent.count(b"HTTP/1.1 429 ") == 1
    web.clock.advance(1)
    assert wire.log[-1] == ("abort",)


def test_what_follows_an_unanswered_request_is_bounded(web: Web) -> None:
    """Requests behind one that takes its time are kept up to 64 KiB; its answer is not waited for then."""
    answers: list[Deferred[Verdict]] = []

    class Later(Ready):
        def judge(self, request: Any) -> Deferred[Verdict]:
            answers.append(Deferred())
            return answers[-1]

    web.root.putChild(b"later", Later(web.probes, lambda request: TRUSTED))
    wire = web.connect()
    wire.receive(head("/later"))
    for _ in range(18):
        wire.receive(b"x" * 4096)
    assert wire.sent.count(b"HTTP/1.1 429 ") == 1
    sent = wire.sent
    answers[0].callback(TRUSTED)
    assert wire.sent == sent


def test_requests_without_end_stand_in_line(web: Web) -> None:
    """Who asks on and on is read in its turn, and forgotten when it goes; others are answered meanwhile."""
    wire = web.connect()
    wire.receive(head("/healthz"))
    turnstile = web.site.turnstile
    turnstile._pay(1.0)
    wire.receive(head("/healthz"))
    assert len(turnstile) == 1
    assert wire.producerState == "paused"
    web.clock.advance(1)
    assert wire.producerState == "producing"
    turnstile._pay(1.0)
    wire.receive(head("/healthz"))
    wire.lose()
    assert len(turnstile) == 0
    assert wire.sent.count(b" 200 OK\r\n") == 3


@pytest.fixture
def unanswered(web: Web) -> tuple[Wire, Deferred[Verdict]]:
    """A connection that sent more behind a request than is read before its answer, and the verdict."""
    verdict: Deferred[Verdict] = Deferred()

    class Later(Ready):
        def judge(self, request: Any) -> Deferred[Verdict]:
            return verdict

    web.root.putChild(b"later", Later(web.probes, lambda request: TRUSTED))
    wire = web.connect()
    wire.receive(head("/later"))
    wire.receive(head("/healthz", "POST", Content_Length="20000") + b"x" * 20_000)
    assert wire.producerState == "paused"
    return wire, verdict


def test_its_turn_does_not_have_a_held_connection_read(
    web: Web, unanswered: tuple[Wire, Deferred[Verdict]]
) -> None:
    """Who waits for an answer is not read because of a turn in the line, but once it is answered."""
    wire, verdict = unanswered
    web.site.turnstile._pay(1.0)
    wire.receive(b"\r\n")  # what TLS had decrypted already
    assert len(web.site.turnstile) == 1
    web.clock.advance(1)
    assert len(web.site.turnstile) == 0
    assert wire.producerState == "paused"
    verdict.callback(TRUSTED)
    assert wire.producerState == "producing"


def test_an_answer_does_not_have_who_stands_in_line_read(web: Web) -> None:
    """Who reads its answers while it stands in line is read in its turn, and not before."""
    wire = web.connect()
    wire.receive(head("/healthz"))
    wire.protocol.pauseProducing()  # as a full transport does
    web.site.turnstile._pay(1.0)
    wire.receive(b"GET ")
    assert len(web.site.turnstile) == 1
    wire.protocol.resumeProducing()
    assert wire.producerState == "paused"
    web.clock.advance(1)
    assert wire.producerState == "producing"


def test_a_lost_channel_holds_nothing(web: Web) -> None:
    """A channel that is over is no part of a cycle with what pauses its reading."""
    wire = web.connect()
    wire.receive(head("/healthz"))
    channel = wire.protocol
    wire.lose()
    assert channel._networkProducer is wire
