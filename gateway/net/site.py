# mypy: disallow-untyped-calls=False
"""HTTP on the port: connections, requests, and the same rules for every response.

Built on ``twisted.web.http`` and ``twisted.web.resource``, whose resources it serves, without
``twisted.web.server``, whose sessions and pages of errors are not wanted (20 ms of start, 1.6 MB).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http.client import responses
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.error import UnsupportedMethod
from twisted.web.resource import IResource, getChildForRequest

from gateway.core.frames import encode
from gateway.net.deadlines import Deadlines
from gateway.net.port import (
    MAX_HEADERS,
    SECURITY_HEADERS,
    TOO_MANY,
    Refused,
    hand_over,
    host_of,
    may_read,
    refusal,
    wants_websocket,
)
from gateway.net.strangers import Strangers, unlimited
from gateway.net.turnstile import Turnstile

MAX_BODY: Final = 65_536
"""Largest request body that is read, in bytes; no resource takes one yet."""
MAX_AHEAD: Final = 65_536
"""Most bytes that are kept of requests that follow one that is being answered."""
NOT_DONE_YET: Final = 1
"""What a resource returns that goes on by itself."""
REQUESTS_AT_ONCE: Final = 8
"""Most requests that are answered of one read: nobody waits while a pipeline of a hundred is worked off."""
IDLE_S: Final = 30.0
"""How long an HTTP connection may be idle, in seconds."""

_ORIGIN: Final = re.compile(rb"https?://[^/?]*", re.IGNORECASE)

log = Logger()


class Request(http.Request):
    """One request: finds its resource, and answers whatever comes of that."""

    channel: Any
    content: Any

    def __init__(self, channel: Any, queued: Any = False) -> None:
        super().__init__(channel, queued, parsePOSTFormSubmission=False)
        self.prepath: list[bytes] = []
        self.postpath: list[bytes] = []

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - Twisted's name
        """Refuse a body that says that it is too large."""
        if length is not None and length > MAX_BODY:
            self.channel.refuse(413, f"the body is larger than {MAX_BODY} bytes")
        super().gotLength(min(length or 0, MAX_BODY))

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Refuse a body that grows too large."""
        if self.channel.successor is not None:
            return
        if self.content.tell() + len(data) > MAX_BODY:
            self.channel.refuse(413, f"the body is larger than {MAX_BODY} bytes")
        else:
            super().handleContentChunk(data)

    def process(self) -> None:
        """Render the resource that the path names."""
        self.channel.site.unfinished.discard(self.channel)
        if self.channel.successor is not None:
            return
        if self.channel.too_many():
            self.channel.refuse(429, f"more than {REQUESTS_AT_ONCE} requests at once")
            return
        if self.channel.unread:
            self.channel.refuse(429, "the answers before are not read")
            return
        if self.method == b"GET" and self.requestHeaders.hasHeader(b"upgrade"):
            head = self._as_received()
            if wants_websocket(head):
                self.channel.upgrade(head)
                return
        for name, value in SECURITY_HEADERS:
            self.setHeader(name, value)
        self.setHeader(b"Date", http.datetimeToString())
        try:
            if self.channel.site.misdirected(self):
                body: Any = plain(self, 421)
            else:
                body = self._find().render(self)
        except UnsupportedMethod as error:
            self.setHeader(b"Allow", b", ".join(error.allowedMethods))
            body = plain(self, 405)
        except Exception:
            log.failure("request {method} {path} failed", method=self.method, path=self.path)
            body = plain(self, 500)
        if isinstance(body, bytes):  # else the resource goes on by itself
            self.setHeader(b"Content-Length", b"%d" % len(body))
            self.write(body)
            self.finish()

    def _find(self) -> IResource:
        path = _ORIGIN.sub(b"", self.path, count=1) or b"/"
        self.postpath = [unquote_to_bytes(part) for part in path.split(b"/")[1:]]
        found: IResource = getChildForRequest(self.channel.site.root, self)
        return found

    def _as_received(self) -> bytes:
        lines = [b" ".join((self.method, self.uri, self.clientproto))]
        for name, values in self.requestHeaders.getAllRawHeaders():
            lines += [b"%b: %b" % (name, value) for value in values]
        return b"\r\n".join(lines) + b"\r\n\r\n"


class _Reading:
    """What a channel pauses and resumes in the place of its transport: who stands in line is not read."""

    def __init__(self, channel: Channel, network: Any) -> None:
        self._channel = channel
        self.network = network
        self.registerProducer = network.registerProducer
        self.unregisterProducer = network.unregisterProducer

    def pauseProducing(self) -> None:
        """Read no more."""
        self._channel.held = True
        self.network.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on, or when it is its turn."""
        self._channel.held = False
        if self._channel not in self._channel.site.turnstile:
            self.network.resumeProducing()


class Channel(http.HTTPChannel):
    """An HTTP connection. A later request on it may still become a WebSocket, or be refused."""

    requestFactory = Request  # type: ignore[assignment]
    site: Site
    maxHeaders = MAX_HEADERS  # noqa: N815 - Twisted's name
    successor: IProtocol | None = None
    """The protocol that this connection was given to."""
    unread = False
    """Whether answers wait that the peer does not read. Twisted stops reading then, but not from who was
    answered within a read."""
    held = False
    """Whether Twisted does not want it to be read: its request is not answered, or its answers not read."""
    _gone = False
    _at_once = 0

    @property
    def address(self) -> str:
        """Where it comes from."""
        return host_of(self.getPeer())

    def connectionMade(self) -> None:
        """Count the connection for as long as it lasts: no request of it authenticates it for good."""
        super().connectionMade()
        self._networkProducer: Any = _Reading(self, self._networkProducer)
        if not self.site.strangers.enter(self, host_of(self.getPeer())):
            self.refuse(503, TOO_MANY)

    def give_way(self) -> bool:
        """Make room for somebody else, unless a request is being answered."""
        if self._handlingRequest:
            return False
        self.refuse(503, TOO_MANY)
        return True

    def dataReceived(self, data: bytes) -> None:
        """Take bytes, in the time that there is for strangers: a request lets nobody in."""
        self._at_once = 0
        self.site.turnstile.serve(self, self._parse, data, self._ours)

    def _ours(self) -> bool:
        return self.successor is None and not self._gone

    def _parse(self, data: bytes) -> None:
        try:
            super().dataReceived(data)
        except ValueError:  # Twisted on a Content-Length of thousands of digits
            self._respondToBadRequestAndDisconnect()
        begun = self._buffer or (self.requests and not self._handlingRequest)
        if begun and self._ours() and self not in self.site.unfinished:
            self.site.unfinished.add(self)

    def too_many(self) -> bool:
        """Count a request; return whether one read brought more of them than are answered."""
        self._at_once += 1
        return self._at_once > REQUESTS_AT_ONCE

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection."""
        self._gone = True
        self.site.unfinished.discard(self)
        self.site.strangers.leave(self)
        self.site.turnstile.lost(self)
        super().connectionLost(reason)
        self._networkProducer = self._networkProducer.network  # else each holds the other

    def upgrade(self, head: bytes) -> None:
        """Go on as a WebSocket: proxies reuse an idle connection for an upgrade."""
        factory = self.site.websocket
        protocol = None if factory is None else factory.buildProtocol(self.getPeer())
        if protocol is None:
            self.refuse(503, "no more connections")
        else:
            self._give_to(protocol, head)

    def refuse(self, status: int, text: str) -> None:
        """Answer that no request is taken, and close."""
        self._give_to(Refused(self.site.lingering, refusal(status, text), self.site.turnstile), b"")

    def too_slow(self) -> None:
        """The time of a request is over, however often a little more of it came."""
        self.refuse(408, "the request took too long")

    def lineReceived(self, line: bytes) -> None:
        """Take a line of a head, unless the connection is no longer ours."""
        if self.successor is None:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        """Take a piece of a body; what came behind an upgrade is the successor's."""
        if self.successor is not None:
            self.successor.dataReceived(data)
        elif self._handlingRequest and sum(map(len, self._dataBuffer)) > MAX_AHEAD:
            self.refuse(429, "the request before is not answered yet")
        else:
            super().rawDataReceived(data)

    def pauseProducing(self) -> None:
        """The transport holds enough of what was answered."""
        self.unread = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The peer reads again."""
        self.unread = False
        super().resumeProducing()

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802 - Twisted's name
        self.refuse(400, "this is no HTTP request that can be understood")

    def _give_to(self, protocol: IProtocol, data: bytes) -> None:
        self.successor = protocol
        self.site.unfinished.discard(self)
        self.site.strangers.leave(self)
        self.site.turnstile.left(self)
        self.setTimeout(None)
        self._networkProducer.unregisterProducer()
        self._networkProducer.resumeProducing()
        hand_over(self.transport, self, protocol, data)


class Site(http.HTTPFactory):
    """Makes HTTP connections that serve one tree of resources.

    :param websocket: makes the protocol of an upgrade on a connection that has served HTTP before.
    :param strangers: counts the connections; without it there is no limit.
    :param turnstile: has their share of the loop's time; those of one gateway share one.
    :param misdirected: whether a request calls the gateway by a name that is not its own (421).
    """

    protocol = Channel  # type: ignore[assignment]
    noisy = False

    def __init__(
        self,
        root: IResource,
        clock: IReactorTime,
        *,
        websocket: IProtocolFactory | None = None,
        idle_timeout: float = IDLE_S,
        strangers: Strangers | None = None,
        turnstile: Turnstile | None = None,
        misdirected: Callable[[Request], bool] = lambda request: False,
    ) -> None:
        super().__init__(timeout=idle_timeout, reactor=clock)
        self.root = root
        self.websocket = websocket
        self.misdirected = misdirected
        self.strangers = unlimited() if strangers is None else strangers
        self.lingering = may_read(clock, self.strangers)
        self.unfinished = Deadlines(clock, idle_timeout, Channel.too_slow)
        """Connections of which a part of a request has come: nothing extends its time."""
        self.turnstile = Turnstile(clock) if turnstile is None else turnstile

    def buildProtocol(self, addr: Any) -> Any:
        """Return a connection of this site."""
        channel: Any = super().buildProtocol(addr)
        channel.site = self
        return channel

    def startFactory(self) -> None:
        """Start nothing: there is no access log, and so no clock for its lines."""

    def stopFactory(self) -> None:
        """Drop who still reads a refusal."""
        self.unfinished.stop()
        for peer in self.lingering.stop():
            peer.abort()

    def log(self, request: Any) -> None:
        """Write no access log."""


def plain(request: http.Request, status: int) -> bytes:
    """Set a status, and return its name as the body."""
    phrase = responses[status].encode("ascii")
    request.setResponseCode(status, phrase)
    request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
    return phrase


def json(request: http.Request, status: int, value: Any) -> bytes:
    """Set a status, and return a value as the body."""
    request.setResponseCode(status, responses[status].encode("ascii"))
    request.setHeader(b"Content-Type", b"application/json")
    return encode(value)
