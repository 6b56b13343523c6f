"""Why a connection ended, and how it is ended; :mod:`gateway.net.facts` tells of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.app.context import Context
from gateway.core.access import Peer
from gateway.core.handshake import Handshake
from gateway.core.refusals import Refusal
from gateway.errors import CloseCause, CloseCode
from gateway.net.facts import log_closed, printable
from gateway.net.port import TOO_MANY
from gateway.net.sending import Sending
from gateway.net.wsframes import keep

_log = Logger()

FLUSH_S: Final = 10.0
"""Longest that the way out may take after a close, however slowly the last bytes drain, in seconds."""
MAX_REASON_BYTES: Final = 123
"""What a close frame has room for beside its code (RFC 6455 section 5.5)."""

NO_GOODBYE: Final = "closed without a close frame"

_QUOTE: Final = re.compile("[\"':]")
"""Autobahn's reasons quote the peer, its URL and headers included, behind the first of these."""

_LEFT: Final = frozenset({CloseCause.PEER_GONE, CloseCause.PEER_CLOSED})
"""How it ends if nothing else ended it."""

_NOT_REFUSED: Final = _LEFT | {CloseCause.DRAIN}

_REFUSED_UPGRADES: Final = {
    403: CloseCause.MISSING_ATTRIBUTION,
    500: CloseCause.INTERNAL_ERROR,
    503: CloseCause.CAPACITY,
}
"""Causes by HTTP status; every other status says that the request was at fault."""


class Closing:
    """The end of one connection: its first cause, and the details of all that wanted to end it."""

    __slots__ = ("cause", "code", "details", "phase", "queued", "reason", "stage")

    def __init__(
        self, cause: CloseCause, code: int, reason: str, phase: str, details: dict[str, Any]
    ) -> None:
        self.cause = cause
        self.code = code
        self.reason = reason
        self.phase = phase
        """How far the handshake was: connected, pending (nobody refused it), failed."""
        self.details = details
        self.queued = 0
        self.stage = phase
        """Where it was then, see :attr:`Ending.stage`."""

    def merge(self, cause: CloseCause, details: dict[str, Any]) -> None:
        """Keep what a later cause adds; what is known already stays."""
        for name, value in details.items():
            self.details.setdefault(name, value)
        if cause is not self.cause and cause not in _LEFT:
            self.details.setdefault("alsoCause", cause.value)


class Silence:
    """Stands for Autobahn's logger: the close line says it all once, and cleaned."""

    def debug(self, *args: Any, **kwargs: Any) -> None:
        """Drop a line."""

    trace = info = warn = error = failure = debug


class Ending(Sending):
    """The end of a connection. Everything that ends it calls :meth:`close`; nothing else tears down."""

    log = Silence()
    context: Context | None = None
    frames_in = 0
    last_frame: tuple[str | None, str | None, str | None] = (None, None, None)
    opened_at = 0.0
    remote: Peer
    _handshake: Handshake | None = None
    _held: tuple[Refusal, str | None] | None = None
    """The refusal that is held back, and what it answers."""
    _running: dict[Deferred[None], bool]
    _gone = False
    _cut_at = 0.0

    @property
    def stage(self) -> str:
        """How far it has come: upgrade, challenge (it owes its connect), connect, connected."""
        if self.keepalive is not None:
            return "connected"
        if self._handshake is None:
            return "upgrade"
        return "connect" if self.frames_in else "challenge"

    if TYPE_CHECKING:  # of the part that watches over the peer

        @property
        def silent(self) -> bool:
            """Whether it was pinged, and has not been heard of since."""

    def on_error(self, failure: Failure) -> None:
        """End the connection for an error of ours; every error comes here, not only the first."""
        if self.closing is None:
            self._log.failure("connection {conn} failed", failure=failure, conn=self.conn_id)
        elif not failure.check(CancelledError):
            self._log.warn(
                "error after the end conn={conn} error={error}",
                conn=self.conn_id,
                error=printable(repr(failure.value)),
            )
        self.close(
            CloseCause.INTERNAL_ERROR,
            CloseCode.INTERNAL,
            "internal error",
            error=type(failure.value).__name__,
        )

    def close(self, cause: CloseCause, code: int, reason: str, **details: Any) -> None:
        """Close. Idempotent: the first cause stays, later details are merged, teardown happens once.

        The close frame is the last that is written. A peer that does not answer it is cut after the
        grace, counted anew while bytes still drain to it: a close that nobody sees says nothing.
        """
        if self.closing is not None:
            self.closing.merge(cause, details)
            return
        phase = "pending" if cause in _NOT_REFUSED else "failed"
        if self.keepalive is not None:
            phase = "connected"
        elif phase == "failed":
            self.edge.metrics.handshake_refused(cause.value)
        stage = self.stage
        self.closing = Closing(cause, int(code), reason, phase, details)
        self.closing.stage = stage
        self.closing.queued = self.discard()
        if not self._gone:
            self._cut_at = self.edge.clock.seconds() + FLUSH_S
            self.edge.farewells.add(self)
            self.edge.halfway.add(self)
            self._attempt(self._say_goodbye, int(code), reason)
            if self._reading_paused:  # its answer to the close lies behind what was not read
                self._attempt(self.resume_reading)
        self._tear_down()

    def give_way(self) -> bool:
        """Make room for another stranger, as one of the address that has most of them."""
        self.close(CloseCause.CAPACITY, CloseCode.TRY_LATER, TOO_MANY)
        return True

    def _attempt(self, step: Callable[..., object], *args: Any) -> None:
        """Do a step of the end; what it raises is logged, and the next step follows."""
        try:
            step(*args)
        except Exception:
            self._log.failure("the end of connection {conn} failed", conn=self.conn_id)

    def _say_goodbye(self, code: int, reason: str) -> None:
        if self.state == self.STATE_OPEN:
            data = reason.encode("utf-8", "replace")[:MAX_REASON_BYTES]
            self.sendCloseFrame(code=code, reasonUtf8=data.decode("utf-8", "ignore").encode())
        elif self.state == self.STATE_CONNECTING:
            self.sendHttpErrorResponse(500 if code == CloseCode.INTERNAL else 503, reason)
            self.dropConnection()

    def _tear_down(self) -> None:
        edge = self.edge
        self._handshake = self._held = None
        edge.strangers.leave(self)
        edge.delays.discard(self)
        edge.deadlines.discard(self)
        for work, waits in list(self._running.items()):
            if waits:
                self._attempt(work.cancel)
        if self.context is not None:
            self._attempt(edge.detach, self)

    def outstay(self) -> None:
        """The grace is over: cut the peer, unless what is left still drains to it."""
        if self.drains() and self._left and self.edge.clock.seconds() < self._cut_at:
            self.edge.farewells.add(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Cut the connection: the peer had its time, or the transport fails."""
        self.state = self.STATE_CLOSED
        if not self._gone:  # TLS can't abort what is lost
            self.transport.abortConnection()

    def dropConnection(self, abort: bool = False) -> None:  # noqa: N802
        """Close the transport once it has written what it holds (Autobahn's hook).

        It never aborts: a reset may overtake what was written. Who takes too long is cut by the edge.
        """
        super().dropConnection(abort=False)

    def failHandshake(  # noqa: N802
        self,
        reason: str,
        code: int = 400,
        responseHeaders: Any = None,  # noqa: N803 - Autobahn's name
    ) -> None:
        """Refuse the upgrade (Autobahn's hook). What the peer sent is told to it, and not logged."""
        if self.state != self.STATE_CONNECTING:
            return  # refused already
        self.sendHttpErrorResponse(code, reason, responseHeaders)
        self.dropConnection()
        cause = _REFUSED_UPGRADES.get(code, CloseCause.INVALID_HANDSHAKE)
        self.close(cause, 1006, _QUOTE.split(reason, 1)[0].strip(), httpStatus=code)

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        """End a connection that broke the WebSocket protocol (Autobahn's hook)."""
        self.failedByMe = True
        self.close(CloseCause.PROTOCOL_ERROR, code, reason)

    def _max_message_size_exceeded(self, msg_size: int, max_msg_size: int, reason: str) -> None:
        """End a connection whose message is too large (Autobahn's hook)."""
        cause = CloseCause.PROTOCOL_ERROR
        if self.context is None:
            cause, reason = CloseCause.PREAUTH_TOO_LARGE, "preauth payload too large"
        self.failedByMe = True
        self.close(cause, CloseCode.TOO_BIG, reason, payloadBytes=msg_size, limitBytes=max_msg_size)

    def onMessageFrameData(self, payload: bytes) -> None:
        """Keep a piece of a frame (Autobahn's hook), unless nobody will read it."""
        if self.closing is None:
            keep(self.frame_data, payload)

    def onMessageFrame(self, payload: list[bytes | bytearray]) -> None:
        """Keep the pieces of a fragment (Autobahn's hook), unless nobody will read it."""
        if self.closing is None:
            for piece in payload:
                keep(self.message_data, piece)

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:  # noqa: N803
        """Take a close frame (Autobahn's hook): the answer to ours, or one that is answered here."""
        stop: bool | None = super().onCloseFrame(code, reasonRaw)
        self.close(
            CloseCause.PEER_CLOSED, self.remoteCloseCode or 1005, self.remoteCloseReason or ""
        )
        return stop

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection is over, whoever ended it (Autobahn's hook, also for failed handshakes)."""
        cause = CloseCause.PEER_CLOSED if wasClean else CloseCause.PEER_GONE
        self.close(cause, code or 1005, reason or "")

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """The transport is gone: say once why."""
        self._gone = True
        # What Twisted calls closed cleanly is a socket's end: of WebSocket's there was none.
        ended = reason.check(ConnectionDone) is not None
        self.close(CloseCause.PEER_GONE, 1006, NO_GOODBYE if ended else reason.getErrorMessage())
        self._attempt(super().connectionLost, reason)
        self._attempt(self.unregisterProducer)  # TLS keeps it, a cycle of all that is here
        self.edge.turnstile.lost(self)
        self.edge.farewells.discard(self)
        self.edge.halfway.discard(self)
        self.factory.forget(self)
        self._attempt(log_closed, self)
