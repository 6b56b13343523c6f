"""One WebSocket connection: the handshake, the requests and their answers, the watch over its peer.

Everything that ends a connection calls :meth:`GatewayProtocol.close`, and nothing else tears down:
the first cause stays, later details are merged. Whatever is raised in a hook of Autobahn, in a send,
or by the transport comes to :meth:`GatewayProtocol.on_error`, every time, and ends there too.
"""

from __future__ import annotations

from typing import Any

from autobahn.websocket.types import ConnectionDeny
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.app.admission import Admitted
from gateway.app.context import Caller
from gateway.core.access import Peer
from gateway.core.attempts import Credential
from gateway.core.frames import BadFrame, NotJson, decode_request, error_response, peek
from gateway.core.handshake import Ask, Pause, Refuse, Step, Verify, claims, new_handshake
from gateway.core.keepalive import Check
from gateway.core.outbox import Outbox
from gateway.core.proxies import Unattributed
from gateway.core.refusals import Refusal
from gateway.errors import (
    CloseCause,
    CloseCode,
    GatewayError,
    InvalidRequest,
    Unavailable,
    WrongRole,
)
from gateway.interfaces import IConnection
from gateway.net.closing import Ending
from gateway.net.port import TOO_MANY, host_of
from gateway.net.sending import limit_kernel
from gateway.net.transport import trust

MAX_WRONG_ROLE = 10
"""Requests in a row for another role; the next one closes the connection."""

UNREAD_ANSWERS_BYTES = 1_048_576
"""So many bytes of answers may wait for a client before no more of its requests are read; half of its
outbox if that is less."""

MAX_LOGGED = 128
"""Characters of a method and of an id that are kept for the close line."""


@implementer(IConnection)
class GatewayProtocol(Ending):
    """The server's end of one connection."""

    _heard = True
    _pinged = False
    _wrong_role = 0
    _excused = False
    _cost = 0.0

    # -- opening

    @property
    def caller(self) -> Caller:
        """Who it is, once it is authenticated."""
        assert self.context is not None
        return self.context.caller

    @property
    def answering(self) -> bool:
        """Whether a request is not answered yet."""
        return bool(self._running)

    def connectionMade(self) -> None:
        """A transport is there."""
        edge = self.edge = self.factory.edge
        limits = edge.limits
        self.conn_id = edge.entropy.uuid4()
        self.opened_at = edge.clock.seconds()
        address = self.transport.getPeer()
        self.remote = Peer(host_of(address), getattr(address, "port", 0))
        self.outbox = Outbox(
            4,
            max_bytes=limits.outbox_bytes,
            max_age=limits.outbox_age_s,
            total=edge.outboxes,
        )
        self._running = {}
        self.factory.remember(self)
        limit_kernel(self.transport)
        super().connectionMade()

    def onConnect(self, request: Any) -> None:
        """Look at the upgrade request: who asks, and whether there is room for one more stranger."""
        try:
            self.remote = self.edge.peer_of(self.remote, request.headers)
            self.remote = self.edge.proxies.attribute(self.remote, request.headers)
            room = self.edge.strangers.enter(self, self.remote.address)
        except Unattributed as error:
            raise ConnectionDeny(403, str(error)) from error
        except Exception as error:
            self.on_error(Failure())
            raise ConnectionDeny(500, "internal error") from error
        if not room:
            raise ConnectionDeny(503, TOO_MANY)

    def onOpen(self) -> None:
        """Speak first."""
        try:
            self._challenge()
        except Exception:
            self.on_error(Failure())

    def _challenge(self) -> None:
        """From when the challenge is written the client has its time."""
        edge = self.edge
        self.transport.registerProducer(self, True)
        handshake = new_handshake(
            lambda: edge.policy,
            self.remote,
            max_queued=edge.limits.preauth_queue_frames,
            max_bytes=edge.limits.preauth_payload_bytes,
            locked=edge.locked(self.remote),
            slowed=edge.slowed(self.remote),
        )
        nonce = edge.entropy.uuid4()
        self._send(edge.challenge(nonce))
        handshake.challenge(nonce)
        if self.closing is None:
            self._handshake = handshake
            edge.deadlines.add(self)

    def expire(self) -> None:
        """The time for the handshake is over; once more for who stands in line, as we have not read it."""
        if self in self.edge.turnstile and not self._excused:
            self._excused = True
            self.edge.deadlines.add(self)
        else:
            self.close(CloseCause.HANDSHAKE_TIMEOUT, CloseCode.NORMAL, "")

    # -- receiving

    @property
    def address(self) -> str:
        """Where it comes from."""
        return self.remote.address

    def dataReceived(self, data: bytes) -> None:
        """Take bytes; those of a stranger in the time that there is for strangers."""
        if self.keepalive is not None:
            self._take(data)
        else:
            self._cost += self.edge.turnstile.serve(self, self._take, data, self._strange)

    def _strange(self) -> bool:
        return self.keepalive is None and not self._gone

    def _take(self, data: bytes) -> None:
        """Take bytes; once the connection failed they are only drained."""
        self._heard = True
        if self.closing is not None and self.failedByMe:
            return
        try:
            super().dataReceived(data)
        except Exception:
            self.on_error(Failure())

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Handle one frame; text and binary are the same."""
        if self.closing is not None:
            return
        self.frames_in += 1
        self.edge.metrics.frames_in += 1
        try:
            if self.keepalive is not None:
                self._request(payload)
            else:
                self._greet(payload)
        except Exception:
            self.on_error(Failure())

    def _greet(self, payload: bytes) -> None:
        """Handle a frame of the handshake."""
        assert self._handshake is not None
        self.edge.greetings += 1
        self.last_frame = peek(payload)
        self._step(self._handshake.receive(payload, self.edge.clock.now_ms()))

    def _step(self, step: Step) -> None:
        """Do what the handshake asks for. What we take from there on is our time, not the client's."""
        if isinstance(step, Ask):
            self.edge.deadlines.discard(self)
            self._run(Deferred.fromCoroutine(self._admit(step)), waits=True)
        elif isinstance(step, Verify):
            self.edge.deadlines.discard(self)
            # It goes on when the client leaves: who leaves before the answer has guessed, too.
            self._run(Deferred.fromCoroutine(self._verify(step)), waits=False)
        elif isinstance(step, Pause):
            self.edge.deadlines.discard(self)
            self.edge.delays.add(self, step.seconds)
        elif isinstance(step, Refuse):
            self._refuse(step.refusal, step.frame_id, step.shown)

    async def _verify(self, step: Verify) -> None:
        try:
            right = await self._compare(step.candidate)
        except GatewayError as error:
            shape = error.shape(4)
            self._refuse(
                Refusal(CloseCause.CAPACITY, CloseCode.TRY_LATER, error.message, shape),
                step.frame_id,
            )
            return
        if self.closing is None and self._handshake is not None:
            self._step(self._handshake.verified(right))
        elif not right:
            self.edge.guard.failed(self.remote, (Credential.SHARED,))

    async def _compare(self, password: str) -> bool:
        """Whether it is the password, also when that is changed meanwhile. Raises Unavailable."""
        while True:
            secret = self.edge.policy.auth.secret
            right = await self.edge.verify(password)
            if secret == self.edge.policy.auth.secret:
                return right

    async def _admit(self, ask: Ask) -> None:
        cause = CloseCause.INTERNAL_ERROR
        try:
            admitted = await self.edge.admission.admit(ask.proven)
            entered = False
            try:
                if self.closing is None:  # else it left meanwhile
                    cause = CloseCause.CAPACITY
                    self._establish(ask, admitted)
                    entered = True
            finally:
                self.edge.admission.settle(admitted, ask.proven, entered=entered)
        except Refusal as refusal:
            refusal.log["claims"] = claims(ask.proven.client)
            # A device whose own token is right, but may not do all that, guesses as others do.
            refusal.failed_credential |= ask.proven.guesses_secret
            self._refuse(refusal, ask.frame_id, ask.proven.shown)
        except GatewayError as error:
            shape, log = error.shape(ask.proven.protocol), {"claims": claims(ask.proven.client)}
            later = Refusal(cause, CloseCode.TRY_LATER, error.message, shape, log)
            self._refuse(later, ask.frame_id)

    def _establish(self, ask: Ask, admitted: Admitted) -> None:
        """Let an admitted client in: its limits, its hello, then what it has sent meanwhile."""
        edge, handshake = self.edge, self._handshake
        assert handshake is not None
        caller = edge.caller_of(self.conn_id, ask.proven, admitted)
        self.protocol = self.outbox.protocol = caller.protocol
        self.context = edge.dispatcher.context(caller)
        try:
            tracked, hello = edge.attach(self, admitted, ask.frame_id)
        except GatewayError:
            edge.detach(self)
            self.context = None
            raise
        edge.strangers.leave(self)
        edge.turnstile.known(self, self._cost)
        edge.welcome(ask.proven, admitted.principal)
        trust(self.transport)
        self.maxMessagePayloadSize = self.maxFramePayloadSize = edge.limits.payload_bytes
        self.keepalive = edge.keepalive()
        self._handshake = None
        self._send(hello)
        edge.services.voice_wake.greet(self)
        for payload in handshake.admit():
            if self.closing is None:
                self._request(payload)
        if tracked:
            edge.presence.publish()

    def _refuse(
        self, refusal: Refusal, frame_id: str | None, shown: tuple[Credential, ...] = ()
    ) -> None:
        refusal.__traceback__ = None  # its frames hold the refusal: a cycle of 70 objects
        if refusal.failed_credential and (delay_s := self.edge.guard.failed(self.remote, shown)):
            self.edge.deadlines.discard(self)
            self._held = refusal, frame_id
            self.edge.delays.add(self, delay_s)
        else:
            self._refuse_with(refusal, frame_id)

    def go_on(self) -> None:
        """It has waited for long enough: for its refusal, or to be looked at."""
        if self._held is not None:
            self._refuse_with(*self._held)
        elif self._handshake is not None:
            self._step(self._handshake.paused())

    def _refuse_with(self, refusal: Refusal, frame_id: str | None) -> None:
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
            self.last_frame = peek(payload)
            self._reject(bad.frame_id, f"invalid request frame: {bad.text}")
            return
        self.last_frame = ("req", request.method[:MAX_LOGGED], request.id[:MAX_LOGGED])
        if self._running and len(self._running) >= self.edge.limits.request_queue:
            busy = Unavailable("The server is busy. Try again.", retryable=True, retry_after_ms=500)
            self._answer(error_response(request.id, busy.shape(self.protocol)), busy)
            return
        assert self.context is not None
        dispatcher = self.edge.dispatcher
        answering = dispatcher.handle(self.context, request, self._answer)
        if answering is not None and not answering.called:
            self._run(answering, waits=dispatcher.waits(request.method))

    def _run(self, work: Deferred[None], *, waits: bool) -> None:
        """Keep what goes on for this connection; what only waits is cancelled with it."""
        if not work.called:
            self._running[work] = waits
            work.addBoth(self._ran, work)
            self.pace()
        work.addErrback(self.on_error)

    def _ran(self, result: Any, work: Deferred[None]) -> Any:
        self._running.pop(work, None)
        self.pace()
        return result

    def pace(self) -> None:
        """Stop reading from a client that asks faster than it is served, and begin again.

        It is when its answers wait because it does not read them, or when all its places are taken by
        requests of which one ends by itself. What only waits for a run may need another request to
        end: where nothing else is in work, what is too much is answered busy.
        """
        if self.closing is not None or self.keepalive is None:
            return
        running, unread = self._running, self.outbox.answers
        crowded = len(running) >= self.edge.limits.request_queue and not all(running.values())
        if self._reading_paused:
            if not crowded and unread <= self._unread_answers_max() // 2:
                self.resume_reading()
        elif crowded or unread > self._unread_answers_max():
            self.pause_reading()

    def _unread_answers_max(self) -> int:
        return min(UNREAD_ANSWERS_BYTES, self.outbox.max_bytes // 2)

    def _reject(self, frame_id: Any, text: str) -> None:
        error = InvalidRequest(text)
        self._answer(error_response(frame_id, error.shape(self.protocol)), error)

    def _answer(self, data: bytes, error: GatewayError | None) -> None:
        """Send a response; too many calls of another role's methods in a row end the connection."""
        self._send(data, answer=True)
        if self.waiting:
            self.pace()
        if not isinstance(error, WrongRole):
            self._wrong_role = 0
            return
        self._wrong_role += 1
        if self._wrong_role > MAX_WRONG_ROLE:
            self.close(
                CloseCause.REPEATED_UNAUTHORIZED, CloseCode.POLICY, "repeated unauthorized calls"
            )

    # -- the watch

    @property
    def silent(self) -> bool:
        """Whether it was pinged, and has not been heard of since."""
        return self._pinged and not self._heard

    def sweep(self, now: float) -> None:
        """Look after a connection that is established: ping the silent, give up the dead and the stuck."""
        if self.closing is not None or self.keepalive is None:
            return
        if (
            self._heard or self._reading_paused
        ):  # then its pong may lie unread: its outbox judges it
            self._heard = self._pinged = False
            self.keepalive.seen(now)
        elif self._pinged and self.drains():
            self.keepalive.progress(now)  # the ping may stand behind all that
        check = self.keepalive.check(now)
        if check is Check.PING:
            self.sendPing()
            self._pinged = True
            self.drains()
        elif check is Check.DEAD:
            self.close(CloseCause.KEEPALIVE_TIMEOUT, CloseCode.POLICY, "keepalive timeout")
        elif self.outbox.expired(now) and now - self._long_at > self.outbox.max_age:
            self.slow_consumer("outbox_age_s")
