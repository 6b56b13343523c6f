# mypy: disallow-untyped-calls=False
"""HTTP on the port: connections, requests, and the same rules for every response.

Built on ``twisted.web.http`` and ``twisted.web.resource``, whose resources it serves, without
``twisted.web.server``, whose sessions and pages of errors are not wanted (20 ms of start, 1.6 MB).
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime
from twisted.logger import Logger
from twisted.web import http
from twisted.web.error import UnsupportedMethod
from twisted.web.resource import IResource, getChildForRequest

from gateway.core.frames import encode
from gateway.net.port import (
    LINGER_S,
    SECURITY_HEADERS,
    Deadlines,
    Refused,
    hand_over,
    refusal,
    wants_websocket,
)

MAX_BODY: Final = 65_536
"""Largest request body that is read, in bytes; no resource takes one yet."""
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
        if self.channel.successor is not None:
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


class Channel(http.HTTPChannel):
    """An HTTP connection. A later request on it may still become a WebSocket, or be refused."""

    requestFactory = Request  # type: ignore[assignment]
    site: Site
    successor: IProtocol | None = None
    """The protocol that this connection was given to."""

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
        self._give_to(Refused(self.site.lingering, refusal(status, text)), b"")

    def lineReceived(self, line: bytes) -> None:
        """Take a line of a head, unless the connection is no longer ours."""
        if self.successor is None:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        """Take a piece of a body; what came behind an upgrade is the successor's."""
        if self.successor is None:
            super().rawDataReceived(data)
        else:
            self.successor.dataReceived(data)

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802 - Twisted's name
        self.refuse(400, "this is no HTTP request that can be understood")

    def _give_to(self, protocol: IProtocol, data: bytes) -> None:
        self.successor = protocol
        self.setTimeout(None)
        network: Any = self._networkProducer
        network.unregisterProducer()
        network.resumeProducing()
        hand_over(self.transport, self, protocol, data)


class Site(http.HTTPFactory):
    """Makes HTTP connections that serve one tree of resources.

    :param websocket: makes the protocol of an upgrade on a connection that has served HTTP before.
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
    ) -> None:
        super().__init__(timeout=idle_timeout, reactor=clock)
        self.root = root
        self.websocket = websocket
        self.lingering = Deadlines(clock, LINGER_S, Refused.abort)

    def buildProtocol(self, addr: Any) -> Any:
        """Return a connection of this site."""
        channel: Any = super().buildProtocol(addr)
        channel.site = self
        return channel

    def startFactory(self) -> None:
        """Start nothing: there is no access log, and so no clock for its lines."""

    def stopFactory(self) -> None:
        """Drop who still reads a refusal."""
        for peer in self.lingering.stop():
            peer.abort()

    def log(self, request: Any) -> None:
        """Write no access log."""


def plain(request: http.Request, status: int) -> bytes:
    """Set a status, and return its name as the body."""
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
    return http.RESPONSES[status]


def json(request: http.Request, status: int, value: Any) -> bytes:
    """Set a status, and return a value as the body."""
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    return encode(value)
