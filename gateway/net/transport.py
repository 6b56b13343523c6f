"""The TCP transport that sends at once, and the arithmetic of what may lie in a transport.

Private attributes of Twisted's transports are touched here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from socket import MSG_DONTWAIT, SHUT_WR
from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

PAUSE_ABOVE: Final = 16_384
"""A transport with more pending bytes than this pauses its producer."""
SLICE: Final = 49_152
"""Largest frame that one write may carry. A transport that is not paused has at most PAUSE_ABOVE bytes
pending, so that one more write leaves at most 64 KiB in it, and then it is paused."""
ACCEPTS: Final = 1
"""Most connections that are accepted in one turn of the loop; Twisted takes more and more of a flood."""

STRANGER_READ: Final = 4096
"""Most bytes that are read at once from who is not known yet."""


NOT_ACCEPTED_LOG_S: Final = 60.0
"""How often the log says that nobody can be accepted, in seconds."""

log = Logger()

_ABORTED: Final = Failure(ConnectionAborted())


class FastServer(tcp.Server):
    """A TCP connection that sends at once when nothing is pending, instead of in the next turn.

    Fan-out 1.7-1.9 times: it saves adding and removing the writer in the reactor's selector (22 % of
    fan-out on epoll, 26 % on asyncio). What the kernel does not take goes to the base class, and so
    does a send that fails: the reactor meets the error again and reports the loss; write never raises.
    """

    bufferSize = STRANGER_READ  # noqa: N815 - Twisted's name

    @property
    def pending_bytes(self) -> int:
        """Bytes that were written and that the kernel has not taken yet."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def write(self, data: bytes) -> None:
        """Send what the kernel takes, and leave the rest to the base class."""
        if (
            self._tempDataLen
            or self.dataBuffer
            or not self.connected
            or self.TLS
            or self._aborting
            or self._writeDisconnected
            or type(data) is not bytes
            or not data
        ):
            super().write(data)  # type: ignore[no-untyped-call]
            return
        try:
            sent = self.socket.send(data)
        except OSError:
            sent = 0
        if sent < len(data):
            super().write(data[sent:])  # type: ignore[no-untyped-call]

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Write the pieces as one."""
        data = b"".join(iovec)
        if data:
            self.write(data)
        else:
            super().writeSequence([data])  # type: ignore[no-untyped-call]

    def _isSendBufferFull(self) -> bool:  # noqa: N802 - Twisted's name
        # Not by lowering bufferSize, which is also the size of a read: reads of 16 KiB cost inbound
        # messages a fifth of their rate.
        return self.pending_bytes > PAUSE_ABOVE


class Dismissal:
    """The transport of a peer that is told one thing and not listened to.

    The reactor does not know of it, so that a flood of those who are refused costs little: a third of a
    FastServer. What the kernel does not take at once is lost.
    """

    disconnecting = False

    def __init__(self, socket: Any, protocol: Any) -> None:
        self._socket = socket
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        """Send it."""
        with suppress(OSError):
            self._socket.send(data, MSG_DONTWAIT)

    def loseWriteConnection(self) -> None:  # noqa: N802 - ITCPTransport
        """Say that nothing follows."""
        with suppress(OSError):
            self._socket.shutdown(SHUT_WR)

    def abortConnection(self) -> None:
        """Close the socket."""
        if not self.disconnecting:
            self.disconnecting = True
            self._socket.close()
            self._protocol.connectionLost(_ABORTED)


@implementer(ILogObserver)
class _NotAccepted:
    """Hears what Twisted logs where it can accept nobody, lines for each who comes; says it once a minute."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._told: float | None = None

    def __call__(self, event: LogEvent) -> None:
        now = self._clock.seconds()
        if self._told is None or now - self._told >= NOT_ACCEPTED_LOG_S:
            self._told = now
            log.warn(
                "connections can not be accepted: {error} (is ulimit -n, or LimitNOFILE, large enough?)",
                error=event.get("acceptError", "EMFILE"),
            )


class FastPort(tcp.Port):
    """A listening port whose connections are :class:`FastServer`, and which takes a few of them at a time.

    A protocol with a true ``unheard`` has a :class:`Dismissal` for its transport.
    """

    accepted: Callable[[FastPort], object] | None = None
    """Called after each turn in which connections were accepted."""

    def __init__(self, *how: Any, **named: Any) -> None:
        super().__init__(*how, **named)
        clock: Any = self.reactor
        # Twisted's own name: it logs with it what befalls it in accepting, and nothing else.
        self._logger = Logger(observer=_NotAccepted(clock))

    def transport(  # type: ignore[override]
        self, skt: Any, protocol: Any, addr: Any, *rest: Any
    ) -> FastServer | Dismissal:
        """Return the transport of a connection that was accepted (Twisted's hook)."""
        if getattr(protocol, "unheard", False):
            return Dismissal(skt, protocol)
        return FastServer(skt, protocol, addr, *rest)

    def doRead(self) -> None:  # noqa: N802 - Twisted's name
        """Accept what waits, but not so much that those who are in wait for it."""
        self.numberAccepts = min(self.numberAccepts, ACCEPTS)
        super().doRead()  # type: ignore[no-untyped-call]
        if self.accepted is not None:
            self.accepted(self)


def pending_bytes(transport: Any) -> int:
    """Return how many written bytes lie in a transport and the layers under it.

    Under TLS that includes cleartext that is not encrypted yet: Twisted gathers up to 64,000 bytes of
    small writes until the next turn. A transport that tells nothing has 0.
    """
    pending = 0
    while transport is not None:
        if isinstance(transport, tcp.Connection):
            return pending + len(transport.dataBuffer) - transport.offset + transport._tempDataLen
        gathered = getattr(getattr(transport, "_aggregator", None), "_buffer", ())
        pending += sum(map(len, gathered))
        pending += sum(map(len, getattr(transport, "_appSendBuffer", ())))
        transport = getattr(transport, "transport", None)
    return pending


def trust(transport: Any) -> None:
    """Read as much at once as Twisted does by default, now that it is known who is there."""
    while transport is not None:
        if isinstance(transport, FastServer):
            transport.bufferSize = tcp.Connection.bufferSize
        transport = getattr(transport, "transport", None)
