"""Why a connection ended, how it is ended, and the one line that says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.app.context import Context
from gateway.core.access import UNIX_ADDRESS, Peer
from gateway.core.handshake import Handshake
from gateway.errors import CloseCause, CloseCode
from gateway.net.sending import Sending

_log = Logger()

FLUSH_S: Final = 10.0
"""Longest that the way out may take after a close, however slowly the last bytes drain, in seconds."""
MAX_HEADER_CHARS: Final = 300
MAX_REASON_BYTES: Final = 123
"""What a close frame has room for beside its code (RFC 6455 section 5.5)."""

_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]+"
)
_QUOTE: Final = re.compile("[\"':]")
"""Autobahn's reasons quote the peer, its URL and headers included, behind the first of these."""

_LEFT: Final = frozenset({CloseCause.PEER_GONE, CloseCause.PEER_CLOSED})
"""How it ends if nothing else ended it."""

_NOT_REFUSED: Final = _LEFT | {CloseCause.DRAIN}

_LINE: Final = (
    "closed conn={conn} cause={cause} code={code} reason={reason} peer={peer} client={client} "
    "durationMs={durationMs} handshake={handshake}"
)
_EARLY_LINE: Final = _LINE + " before connect origin={origin} host={host} ua={userAgent}"


class Closing:
    """The end of one connection: its first cause, and the details of all that wanted to end it."""

    __slots__ = ("cause", "code", "details", "phase", "queued", "reason")

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
    _running: dict[Deferred[None], bool]
    _gone = False
    _cut_at = 0.0

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
        self.closing = Closing(cause, int(code), reason, phase, details)
        self.closing.queued = self.discard()
        if not self._gone:
            self._cut_at = self.edge.clock.seconds() + FLUSH_S
            self.edge.farewells.add(self)
            self.edge.halfway.add(self)
            self._attempt(self._say_goodbye, int(code), reason)
            if self._reading_paused:  # its answer to the close lies behind what was not read
                self._attempt(self.resume_reading)
        self._tear_down()

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
        self._handshake = None
        edge.strangers.leave(self)
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
        cause = CloseCause.INTERNAL_ERROR if code == 500 else CloseCause.INVALID_HANDSHAKE
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
        """Keep a piece of a long message (Autobahn's hook), unless nobody will read it."""
        if self.closing is None:
            super().onMessageFrameData(payload)

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
        self.close(CloseCause.PEER_GONE, 1006, reason.getErrorMessage())
        self._attempt(super().connectionLost, reason)
        self._attempt(self.unregisterProducer)  # TLS keeps it, a cycle of all that is here
        self.edge.farewells.discard(self)
        self.edge.halfway.discard(self)
        self.factory.forget(self)
        self._attempt(log_closed, self)


def printable(value: str | None) -> str | None:
    """Return a text as it may stand in a log: no control characters, at most 300 characters."""
    if value is None:
        return None
    return " ".join(_UNPRINTABLE.sub(" ", value[: 4 * MAX_HEADER_CHARS]).split())[:MAX_HEADER_CHARS]


def _where(peer: Peer) -> str:
    if peer.address == UNIX_ADDRESS:
        return peer.address
    return f"[{peer.address}]:{peer.port}" if ":" in peer.address else f"{peer.address}:{peer.port}"


def log_closed(connection: Ending) -> None:
    """Log the one line of a connection's end, and count its cause."""
    closing, edge, peer = connection.closing, connection.edge, connection.remote
    assert closing is not None
    edge.metrics.connection_closed(closing.cause.value)
    kind, method, frame_id = connection.last_frame
    client, role = "n/a", "n/a"
    if connection.context is not None:
        caller = connection.context.caller
        client = f"{caller.client.id} {caller.client.mode} v{caller.client.version}"
        role = caller.principal.role.value
    facts: dict[str, Any] = {
        "conn": connection.conn_id,
        "cause": closing.cause.value,
        "code": closing.code,
        "reason": printable(closing.reason) or "n/a",
        "peer": _where(peer),
        "client": printable(client),
        "role": role,
        "durationMs": round((edge.clock.seconds() - connection.opened_at) * 1000),
        "handshake": closing.phase,
        "lastFrameType": printable(kind),
        "lastFrameMethod": printable(method),
        "lastFrameId": printable(frame_id),
        "queuedBytes": closing.queued,
        "framesIn": connection.frames_in,
        "framesOut": connection.frames_out,
        "origin": printable(peer.origin) or "n/a",
        "host": printable(peer.host) or "n/a",
        "userAgent": printable(peer.user_agent) or "n/a",
    }
    lost = connection.outbox.losses()
    if lost:
        facts["dropped"] = lost
    if peer.forwarded:
        facts["forwarded"] = True
    for name, value in closing.details.items():
        facts.setdefault(name, printable(value) if isinstance(value, str) else value)
    if closing.phase == "connected":
        _log.info(_LINE, **facts)
    else:
        _log.warn(_EARLY_LINE, **facts)
