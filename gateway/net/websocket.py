"""One WebSocket connection: the handshake, the outbox, the running answers, and one way to end.

Everything that ends a connection calls :meth:`GatewayProtocol.close`, and nothing else tears down:
the first cause stays, later details are merged. Whatever is raised in a hook of Autobahn, in a send,
or by the transport comes to :meth:`GatewayProtocol.on_error`, every time, and ends there too.
"""

from __future__ import annotations

from typing import Any

from autobahn.websocket.types import ConnectionDeny
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.app.context import Caller, Context
from gateway.core.access import Peer
from gateway.core.connect import Refusal
from gateway.core.frames import BadFrame, NotJson, Request, decode_request, error_response, peek
from gateway.core.handshake import Ask, Handshake, Refuse, new_handshake
from gateway.core.keepalive import Check
from gateway.core.outbox import Outbox
from gateway.errors import (
    CloseCause,
    CloseCode,
    GatewayError,
    InvalidRequest,
    Unavailable,
    WrongRole,
)
from gateway.interfaces import IConnection
from gateway.net.closing import Closing, log_closed
from gateway.net.sending import Sending

MAX_WRONG_ROLE = 10
"""Requests in a row for another role; the next one closes the connection."""


@implementer(IConnection)
class GatewayProtocol(Sending):
    """The server's end of one connection."""

    context: Context | None = None
    frames_in = 0
    last_frame: tuple[str | None, str | None, str | None] = (None, None, None)
    opened_at = 0.0
    remote: Peer
    _opened = False
    _heard = True
    _wrong_role = 0
    _handshake: Handshake | None = None

    # -- opening

    @property
    def caller(self) -> Caller:
        """Who it is, once it is authenticated."""
        assert self.context is not None
        return self.context.caller

    def connectionMade(self) -> None:
        """A transport is there; count it until it is authenticated or gone."""
        super().connectionMade()
        edge = self.edge = self.factory.edge
        self.conn_id = edge.entropy.uuid4()
        self.opened_at = edge.clock.seconds()
        host = self.transport.getPeer()
        self.remote = Peer(getattr(host, "host", "unix"), getattr(host, "port", 0))
        self._running: dict[Deferred[None], bool] = {}

    def onConnect(self, request: Any) -> None:
        """Look at the upgrade request: who asks, and whether there is room for one more stranger."""
        self.remote = self.edge.peer_of(self.remote, request.headers)
        if not self.edge.strangers.enter(self, self.remote.address):
            raise ConnectionDeny(503, "Too many unauthenticated sockets")

    def onOpen(self) -> None:
        """Speak first; from when the challenge is written the client has its time."""
        self._opened = True
        edge = self.edge
        self.outbox = Outbox(
            4, max_bytes=edge.limits.outbox_bytes, max_age=edge.limits.outbox_age_s
        )
        self.transport.registerProducer(self, True)
        handshake = new_handshake(
            edge.policy, self.remote, max_queued=edge.limits.preauth_queue_frames
        )
        nonce = edge.entropy.uuid4()
        self._send(edge.challenge(nonce))
        handshake.challenge(nonce)
        self._handshake = handshake
        edge.deadlines.add(self)

    def expire(self) -> None:
        """The time for the handshake is over."""
        self.close(CloseCause.HANDSHAKE_TIMEOUT, CloseCode.NORMAL, "")

    # -- receiving

    def dataReceived(self, data: bytes) -> None:
        """Take bytes; once the connection failed they are only drained."""
        self._heard = True
        if self.closing is None or not self.failedByMe:
            super().dataReceived(data)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Handle one frame; text and binary are the same."""
        if self.closing is not None:
            return
        self.frames_in += 1
        try:
            if self.context is not None:
                self._request(payload)
            else:
                self._greet(payload)
        except Exception:
            self.on_error(Failure())

    def _greet(self, payload: bytes) -> None:
        """Handle a frame of the handshake."""
        assert self._handshake is not None
        self.last_frame = peek(payload)
        step = self._handshake.receive(payload, self.edge.clock.now_ms())
        if isinstance(step, Ask):
            self._run(Deferred.fromCoroutine(self._admit(step)), waits=True)
        elif isinstance(step, Refuse):
            self._refuse(step.refusal, step.frame_id)

    async def _admit(self, ask: Ask) -> None:
        try:
            admitted = await self.edge.admission.admit(ask.proven)
            if self.closing is None:
                self._establish(ask, admitted)
        except Refusal as refusal:
            self._refuse(refusal, ask.frame_id)
        except GatewayError as error:
            shape = error.shape(ask.proven.protocol)
            later = Refusal(CloseCause.INTERNAL_ERROR, CloseCode.TRY_LATER, error.message, shape)
            self._refuse(later, ask.frame_id)
        except Exception:
            if self.closing is None:
                self.on_error(Failure())

    def _establish(self, ask: Ask, admitted: Any) -> None:
        edge, handshake = self.edge, self._handshake
        assert handshake is not None
        caller = edge.caller_of(self.conn_id, ask.proven, admitted)
        self.protocol = self.outbox.protocol = caller.protocol
        self.context = edge.dispatcher.context(caller)
        try:
            tracked, hello = edge.attach(self, admitted, ask.frame_id)
        except GatewayError:
            self.context = None
            raise
        edge.strangers.leave(self)
        edge.deadlines.discard(self)
        self.maxMessagePayloadSize = self.maxFramePayloadSize = edge.limits.payload_bytes
        self.keepalive = edge.keepalive()
        self._handshake = None
        self._send(hello)
        for payload in handshake.admit():
            self.onMessage(payload, False)
        if tracked:
            edge.presence.publish()

    def _refuse(self, refusal: Refusal, frame_id: str | None) -> None:
        if refusal.error is not None and frame_id is not None:
            self._send(error_response(frame_id, refusal.error))
        self.close(refusal.cause, refusal.code, refusal.close_reason, **refusal.log)

    def _request(self, payload: bytes) -> None:
        try:
            request = decode_request(payload, self.protocol)
        except NotJson as error:
            self._reject("invalid", f"invalid request frame: {error}")
            return
        except BadFrame as bad:
            self._reject(bad.frame_id, f"invalid request frame: {bad.text}")
            return
        self.last_frame = ("req", request.method, request.id)
        if len(self._running) >= self.edge.limits.request_queue:
            busy = Unavailable("The server is busy. Try again.", retryable=True, retry_after_ms=500)
            self._answer(error_response(request.id, busy.shape(self.protocol)), busy)
            return
        self._dispatch(request)

    def _dispatch(self, request: Request) -> None:
        assert self.context is not None
        dispatcher = self.edge.dispatcher
        answering = dispatcher.handle(self.context, request, self._answer)
        if answering is not None and not answering.called:
            self._run(answering, waits=dispatcher.waits(request.method))

    def _run(self, work: Deferred[None], *, waits: bool) -> None:
        """Keep what goes on for this connection; what only waits is cancelled with it."""
        if not work.called:
            self._running[work] = waits
            work.addBoth(lambda result: (self._running.pop(work, None), result)[1])
        work.addErrback(self.on_error)

    def _reject(self, frame_id: Any, text: str) -> None:
        error = InvalidRequest(text)
        self._answer(error_response(frame_id, error.shape(self.protocol)), error)

    def _answer(self, data: bytes, error: GatewayError | None) -> None:
        """Send a response; too many calls of another role's methods in a row end the connection."""
        self._send(data)
        if not isinstance(error, WrongRole):
            self._wrong_role = 0
            return
        self._wrong_role += 1
        if self._wrong_role > MAX_WRONG_ROLE:
            self.close(
                CloseCause.REPEATED_UNAUTHORIZED, CloseCode.POLICY, "repeated unauthorized calls"
            )

    # -- ending

    def sweep(self, now: float) -> None:
        """Look after a connection that is established: ping the silent, give up the dead and the stuck."""
        if self.closing is not None or self.keepalive is None:
            return
        if self._heard:
            self._heard = False
            self.keepalive.seen(now)
        check = self.keepalive.check(now)
        if check is Check.PING:
            self.sendPing()
        elif check is Check.DEAD:
            self.close(CloseCause.KEEPALIVE_TIMEOUT, CloseCode.POLICY, "keepalive timeout")
        elif self.outbox.expired(now):
            self._slow_consumer()

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        """End a connection that broke the WebSocket protocol or a limit (Autobahn's hook)."""
        self.failedByMe = True
        cause = CloseCause.PROTOCOL_ERROR
        if code == CloseCode.TOO_BIG and self.context is None:
            cause, reason = CloseCause.PREAUTH_TOO_LARGE, "preauth payload too large"
        self.close(cause, code, reason)

    def on_error(self, failure: Failure) -> None:
        """End the connection for an error of ours; every error comes here, not only the first."""
        if self.closing is None:
            self._log.failure("connection {conn} failed", failure=failure, conn=self.conn_id)
        self.close(
            CloseCause.INTERNAL_ERROR,
            CloseCode.INTERNAL,
            "internal error",
            error=type(failure.value).__name__,
        )

    def close(self, cause: CloseCause, code: int, reason: str, **details: Any) -> None:
        """Close. Idempotent: the first cause stays, later details are merged, teardown happens once."""
        if self.closing is not None:
            self.closing.merge(cause, details)
            return
        self.closing = Closing(cause, int(code), reason, dict(details))
        self.closing.phase = "connected" if self.context is not None else "pending"
        self._unsent = None
        if self._opened:
            self.closing.queued = self.outbox.clear()
        if self._handshake is not None:
            self._handshake.refuse()
        self.edge.strangers.leave(self)
        self.edge.deadlines.discard(self)
        for work, waits in list(self._running.items()):
            if waits:
                work.cancel()
        if self.context is not None:
            self.edge.detach(self)
        self._say_goodbye(int(code), reason)

    def _say_goodbye(self, code: int, reason: str) -> None:
        """Send the close frame; Autobahn aborts the transport if the peer does not answer in time."""
        try:
            if self.state == self.STATE_OPEN:
                self.sendCloseFrame(code=code, reasonUtf8=reason.encode()[:123])
            elif self.state == self.STATE_CONNECTING:
                self.dropConnection(abort=True)
            if self.closing is not None and self.closing.cause is CloseCause.SEND_ERROR:
                self.dropConnection(abort=True)
        except Exception as error:
            # The socket itself fails: only the abort is left, and connectionLost will follow.
            self._log.warn("close failed conn={conn} error={error}", conn=self.conn_id, error=error)
            self.transport.abortConnection()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection is over, whoever ended it (Autobahn's hook, also for failed handshakes)."""
        cause = CloseCause.PEER_CLOSED if wasClean else CloseCause.PEER_GONE
        self.close(cause, code or 1005, reason or "")

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """The transport is gone: say once why."""
        super().connectionLost(reason)
        if self.closing is None:
            self.close(CloseCause.PEER_GONE, 1006, reason.getErrorMessage())
        log_closed(self)
        self.factory.forget(self)
