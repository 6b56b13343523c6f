"""HTTP and WebSocket on one port: read one request head, then hand the transport over.

Requirements. One port serves probes, pages and WebSockets, plain and under TLS; a WebSocket keeps the
plain transport and its fast send path; what never sends a whole head costs a bounded amount of memory
and time.

Design. A :class:`Switch` reads the head (at most 16 KiB, within a deadline), builds the protocol that
the head asks for, puts it in its own place on the transport and replays the bytes. Afterwards nothing
of the switch is left: a message passes through no extra call, and a connection holds no extra object.

Rejected: ``WebSocketResource`` under a ``Site`` (about 4 KB more per connection, its HTTPChannel stays the
transport's producer, and messages pass through it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http.client import responses
from typing import Any, Final

from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IProtocolNegotiationFactory,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.core.access import UNIX_ADDRESS
from gateway.core.frames import encode
from gateway.net.deadlines import Deadlines
from gateway.net.strangers import Strangers, unlimited
from gateway.net.turnstile import Turnstile

MAX_HEAD: Final = 16_384
"""Largest request head that is read, in bytes."""
MAX_REQUEST_LINE: Final = 8192
"""Longest request line that is taken, in bytes."""
MAX_HEADERS: Final = 100
"""Most header lines that are taken."""
FULL_LOG_S: Final = 60.0
"""How often the log says that connections are refused for want of room, in seconds."""
LINGER_S: Final = 1.0
"""How long a refused peer may take to read the refusal, in seconds."""
LINGERING: Final = 500
"""Most refused peers that still may read: of more, the first is dropped."""
LINGERING_SHARE: Final = 10
"""At most one for so many places for strangers: where few files may be open, few linger."""
SECURITY_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
"""What every HTTP response carries."""

TOO_MANY: Final = "Too many unauthenticated sockets"

_BLANK_LINE: Final = b"\r\n\r\n"
_UPGRADE: Final = re.compile(rb"\r\nupgrade[ \t]*:([^\r]*)", re.IGNORECASE)
_UNPRINTABLE: Final = re.compile(r"[^ -~]")

log = Logger()


def refusal(
    status: int, text: str = "", headers: Iterable[tuple[str, str]] = (), *, kind: str | None = None
) -> bytes:
    """Return a whole HTTP/1.1 response that refuses and closes, for where there is no request yet.

    ``text`` is told to the peer as plain text, or with a ``kind`` as the message of a JSON error of that
    type; it may hold what the peer sent.
    """
    phrase = responses.get(status, "Refused")
    message = _UNPRINTABLE.sub("?", text or phrase)
    body, content = (message + "\n").encode("ascii"), "text/plain; charset=utf-8"
    if kind is not None:
        body, content = encode({"error": {"message": message, "type": kind}}), "application/json"
    lines = [
        f"HTTP/1.1 {status} {phrase}",
        "Connection: close",
        f"Content-Type: {content}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (*SECURITY_HEADERS, *headers)),
    ]
    return "\r\n".join(lines).encode("ascii") + _BLANK_LINE + body


_FULL: Final = refusal(503, TOO_MANY)


def hand_over(transport: Any, old: IProtocol, new: IProtocol, data: bytes) -> None:
    """Put ``new`` in the place of ``old`` on a connected transport, and replay ``data`` to it.

    TCP and UNIX transports name their protocol ``protocol``, Twisted's TLS layer ``wrappedProtocol``.
    On any other transport ``old`` forwards, which costs a call per read.
    """
    if getattr(transport, "wrappedProtocol", None) is old:
        transport.wrappedProtocol = new
    elif getattr(transport, "protocol", None) is old:
        transport.protocol = new
    else:
        forwarder: Any = old
        forwarder.dataReceived = new.dataReceived
        forwarder.connectionLost = new.connectionLost
    new.makeConnection(transport)
    if data:
        new.dataReceived(data)


def wants_websocket(head: bytes) -> bool:
    """Return whether a request head is a GET that asks for the upgrade to ``websocket``."""
    if not head.startswith(b"GET "):
        return False
    return any(
        token.strip() == b"websocket"
        for value in _UPGRADE.findall(head)
        for token in value.lower().split(b",")
    )


def host_of(address: Any) -> str:
    """Return the IP address of a peer; a Unix socket's peers share a name."""
    return getattr(address, "host", UNIX_ADDRESS) or UNIX_ADDRESS


class _Peer(Protocol):
    transport: Any

    def abort(self) -> None:
        """Drop the connection at once."""
        self.transport.abortConnection()


def may_read(clock: IReactorTime, strangers: Strangers) -> Deadlines:
    """Return the time that refused peers have, and the room."""
    most = min(LINGERING, max(1, strangers.maximum // LINGERING_SHARE))
    return Deadlines(clock, LINGER_S, _Peer.abort, most=most)


class Refused(_Peer):
    """A peer that was told no: it may read the answer for a second, and what it sends is dropped.

    Closing at once would lose the answer: a socket closed with unread bytes sends a reset, which
    overtakes what was written.
    """

    unheard = True

    def __init__(self, lingering: Deadlines, answer: bytes, turnstile: Turnstile) -> None:
        self._lingering = lingering
        self._answer = answer
        self._turnstile = turnstile

    @property
    def address(self) -> str:
        """Where it comes from."""
        return host_of(self.transport.getPeer())

    def connectionMade(self) -> None:
        """Write the answer and say that nothing follows."""
        self._lingering.add(self)
        self.transport.write(self._answer)
        half_close = getattr(self.transport, "loseWriteConnection", None)
        if half_close is None or hasattr(self.transport, "wrappedProtocol"):
            self.transport.loseConnection()  # TLS can't close one half
        else:
            half_close()

    def dataReceived(self, data: bytes) -> None:
        """Drop it, in the time that there is for strangers: it may be a flood."""
        self._turnstile.serve(self, lambda _: None, data, lambda: self in self._lingering)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the peer."""
        self._lingering.discard(self)
        self._turnstile.lost(self)


class Switch(_Peer):
    """A connection whose protocol is not known yet."""

    factory: SwitchFactory

    def __init__(self, address: Any) -> None:
        self._address = address
        self._head = b""
        self._replaced = False
        self._excused = False

    @property
    def address(self) -> str:
        """Where it comes from."""
        return host_of(self._address)

    def connectionMade(self) -> None:
        """Count the connection, and start the deadline; under TLS it covers the TLS handshake too."""
        self.factory.turnstile.came(self)
        if self.factory.strangers.enter(self, self.address):
            self.factory.undecided_peers.add(self)
        else:
            self.factory.tell_full()
            self._refuse(503, TOO_MANY)

    def give_way(self) -> bool:
        """Make room for somebody else: who has not said in all that time what it wants is told so."""
        self.factory.tell_full()
        self._refuse(503, TOO_MANY)
        return True

    def dataReceived(self, data: bytes) -> None:
        """Look for the end of the head, in the time that there is for strangers."""
        self.factory.turnstile.serve(self, self._read, data, lambda: not self._replaced)

    def _read(self, data: bytes) -> None:
        """Refuse a head that is too large."""
        searched = max(0, len(self._head) - len(_BLANK_LINE) + 1)
        head = self._head = self._head + data if self._head else data
        end = head.find(_BLANK_LINE, searched)
        if end > MAX_HEAD or (end < 0 and len(head) >= MAX_HEAD + len(_BLANK_LINE)):
            self._refuse(431, f"the request head is larger than {MAX_HEAD} bytes")
        elif end >= 0:
            self._decide(head, end)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget it; no protocol ever knew of this connection."""
        self.factory.undecided_peers.discard(self)
        self.factory.strangers.leave(self)
        self.factory.turnstile.lost(self)

    def expire(self) -> None:
        """Its time is over: one that sent nothing is dropped, one that sent half a head is told.

        Who stands in line then is given its time once more: we have not read what it sent.
        """
        if self in self.factory.turnstile and not self._excused:
            self._excused = True
            self.factory.undecided_peers.add(self)
        elif self._head:
            self._refuse(408, "the request head took too long")
        else:
            self.abort()

    def _decide(self, head: bytes, end: int) -> None:
        factory = self.factory
        if head.find(b"\r\n") > MAX_REQUEST_LINE:
            self._refuse(414, f"the request line is longer than {MAX_REQUEST_LINE} bytes")
            return
        if head.count(b"\r\n", 0, end) > MAX_HEADERS:
            self._refuse(431, f"the request has more than {MAX_HEADERS} headers")
            return
        chosen = factory.websocket if wants_websocket(head[: end + 2]) else factory.http
        protocol = chosen.buildProtocol(self._address)
        if protocol is None:
            self._refuse(503, "no more connections")
            return
        self._replace(protocol, head)

    def _refuse(self, status: int, text: str) -> None:
        self._replace(
            Refused(self.factory.lingering, refusal(status, text), self.factory.turnstile), b""
        )

    def _replace(self, protocol: IProtocol, data: bytes) -> None:
        self.factory.undecided_peers.discard(self)
        self.factory.strangers.leave(self)  # what comes now counts itself
        self.factory.turnstile.left(self)
        self._head, self._replaced = b"", True
        hand_over(self.transport, self, protocol, data)


@implementer(IProtocolNegotiationFactory)
class SwitchFactory(ServerFactory):
    """Serves WebSockets and HTTP on one port.

    :param websocket: makes the protocol of a WebSocket upgrade; may return None to refuse (503).
    :param http: makes the protocol of every other request.
    :param head_timeout: seconds from the connection to the end of the request head.
    :param strangers: counts who is not authenticated; without it there is no limit.
    :param turnstile: has their share of the loop's time; those of one gateway share one.
    """

    noisy = False

    def __init__(
        self,
        websocket: IProtocolFactory,
        http: IProtocolFactory,
        clock: IReactorTime,
        *,
        head_timeout: float = 15.0,
        strangers: Strangers | None = None,
        turnstile: Turnstile | None = None,
    ) -> None:
        self.websocket = websocket
        self.http = http
        self.undecided_peers = Deadlines(clock, head_timeout, Switch.expire)
        self.turnstile = Turnstile(clock) if turnstile is None else turnstile
        self.strangers = unlimited() if strangers is None else strangers
        self.lingering = may_read(clock, self.strangers)
        self._clock = clock
        self._told_full: float | None = None

    def accepted(self, port: Any) -> None:
        """Have a port wait while strangers owe."""
        self.turnstile.pace(port)

    def tell_full(self) -> None:
        """Log that a connection is refused for want of room, if that was not said a moment ago."""
        now = self._clock.seconds()
        if self._told_full is None or now - self._told_full >= FULL_LOG_S:
            self._told_full = now
            log.warn(
                "too many unauthenticated connections: some are refused ({count} are open)",
                count=len(self.strangers),
            )

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802 - Twisted's name
        """Name what is spoken: without an answer Twisted refuses a client that offers ALPN."""
        return [b"http/1.1"]

    @property
    def undecided(self) -> int:
        """How many connections have not sent a whole request head yet."""
        return len(self.undecided_peers)

    def buildProtocol(self, addr: IAddress | None) -> Switch | Refused:  # type: ignore[override]
        """Return the switch of a new connection, or where there is no room what says so."""
        if not self.strangers.has_room(host_of(addr)):
            self.tell_full()
            self.turnstile.refused()
            return Refused(self.lingering, _FULL, self.turnstile)
        switch = Switch(addr)
        switch.factory = self
        return switch

    def startFactory(self) -> None:
        """Start both factories with the first port."""
        self.turnstile.start()
        self.websocket.doStart()
        self.http.doStart()

    def stopFactory(self) -> None:
        """Stop both factories with the last port, and drop who has no protocol and no deadline now."""
        self.turnstile.stop()
        for peer in [*self.undecided_peers.stop(), *self.lingering.stop()]:
            peer.abort()
        self.http.doStop()
        self.websocket.doStop()
