"""The sending half of a connection: at most 64 KiB in the transport, everything else in the outbox.

While nothing waits and the transport takes what it is given, a frame is written at once; otherwise it
goes through the outbox, which merges, sheds or overflows. A long message is sent in fragments, so that
a ping or the close frame can go between them.
"""

from __future__ import annotations

import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from functools import partial
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.core.events import Delivery, Event
from gateway.core.keepalive import Keepalive
from gateway.core.outbox import Outbox, Verdict
from gateway.errors import CloseCause, CloseCode
from gateway.net.edge import Edge
from gateway.net.fastpath import SLICE, FastPathMixin, fragments, frame

if TYPE_CHECKING:
    from gateway.net.closing import Closing


KERNEL_BYTES = 16_384
"""How many bytes the kernel of this machine may hold that it has not sent: by itself it takes megabytes,
where nothing can be merged or shed any more, and a close frame comes too late behind them."""

LONG = SLICE - 16
"""A message of so many bytes is written in fragments."""

FRAMES_A_TURN = 1000
"""How many frames that waited are written before others get their turn: some 3 ms."""


def limit_kernel(transport: Any) -> None:
    """Keep what waits for a slow peer where it can be merged and shed; what is no TCP stays as it is."""
    with suppress(AttributeError, OSError):
        _socket(transport).setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_BYTES)


def pieces(payload: bytes) -> bytes | tuple[bytes, ...]:
    """Return a message as one frame, or as the fragments of a long one."""
    return frame(payload) if len(payload) < LONG else tuple(fragments(payload))


def unacknowledged(transport: Any) -> int:
    """Return how many bytes the kernel holds that the peer has not acknowledged; 0 if it does not tell."""
    try:
        answer = ioctl(_socket(transport), TIOCOUTQ, bytes(4))
    except (AttributeError, OSError, ValueError):  # no socket, or one that is closed
        return 0
    return int.from_bytes(answer, sys.byteorder)


def _socket(transport: Any) -> Any:
    while (below := getattr(transport, "transport", None)) is not None:
        transport = below  # under TLS
    return transport.getHandle()


@implementer(IPushProducer)
class Sending(FastPathMixin):
    """What a connection needs to send; the other parts say who it is and when it ends."""

    _log = Logger()
    edge: Edge
    protocol = 4
    conn_id = ""
    outbox: Outbox
    keepalive: Keepalive | None = None
    closing: Closing | None = None
    frames_out = 0
    waiting = False
    """Whether anything has to wait: the transport is full, or what it held up is still being written."""
    _paused = False
    _draining = False
    _unsent: deque[bytes] | None = None
    """The fragments of a long message that are not written yet."""
    _long_at = float("-inf")
    """When a piece of a long message drained last."""
    _left = 0
    """How many bytes had not reached the peer at the last look."""
    _next_turn: IDelayedCall | None = None
    _pong: bytes | None = None
    """The payload of the last ping that is not answered yet."""

    if TYPE_CHECKING:  # of the part that ends it

        def close(self, cause: CloseCause, code: int, reason: str, **details: Any) -> None:
            """Close the connection."""

        def on_error(self, failure: Failure) -> None:
            """End the connection for an error of ours."""

        def abort(self) -> None:
            """Cut the connection."""

        def pace(self) -> None:
            """Read or do not read, as fast as the peer takes its answers."""

    # -- data

    def deliver(self, event: Event) -> None:
        """Send a broadcast event, or let it wait; a form in this version exists."""
        if self.closing is not None:
            return
        try:
            if self.waiting:
                self._queue(self.outbox.put, event)
                return
            data = event.framed(self.protocol, self.outbox.next_seq(), pieces)
            if isinstance(data, bytes):
                self._write(data)
            else:
                self._write_long(data, event.delivery)
        except Exception:
            self.on_error(Failure())

    def deliver_direct(self, event: Event) -> None:
        """Send an event to this connection only, without a number; waiting ones are merged as others are."""
        if self.closing is not None:
            return
        try:
            if event.parts(self.protocol) is None:
                return
            if self.waiting:
                self._queue(partial(self.outbox.put, numbered=False), event)
                return
            self._write_message(event.encoded(self.protocol, None), event.delivery)
        except Exception:
            self.on_error(Failure())

    def _send(self, payload: bytes, *, answer: bool = False) -> None:
        if self.closing is not None:
            return
        if self.waiting:
            self._queue(partial(self.outbox.put_direct, answer=answer), payload)
        else:
            self._write_message(payload, Delivery.MUST)

    def _queue(self, put: Callable[[Any, float], Verdict], what: Any) -> None:
        outbox = self.outbox
        dropped, total = outbox.dropped, outbox.total
        verdict = put(what, self.edge.clock.seconds())
        if verdict is not Verdict.QUEUED:
            if verdict is Verdict.OVERFLOW:
                self.slow_consumer("outbox_bytes")
            elif verdict is Verdict.MERGED:
                self.edge.metrics.outbox_dropped("latest")
        if outbox.dropped > dropped:
            self.edge.metrics.outbox_dropped("droppable", outbox.dropped - dropped)
        if total.held > total.max_bytes:
            self.edge.relieve()

    def slow_consumer(self, limit: str) -> None:
        """Close a client that does not keep up; ``limit`` names the setting that says so."""
        self.close(CloseCause.SLOW_CONSUMER, CloseCode.POLICY, "slow consumer", limit=limit)

    def _write_message(self, payload: bytes, delivery: Delivery) -> None:
        if len(payload) < LONG:
            self._write(frame(payload))
        else:
            self._write_long(tuple(fragments(payload)), delivery)

    def _write_long(self, data: tuple[bytes, ...], delivery: Delivery) -> None:
        self.outbox.write_long(sum(map(len, data)), delivery)
        self._unsent = deque(data)
        self.waiting = True
        self._drain()
        if self.outbox.total.full:
            self.edge.relieve()

    def _write(self, data: bytes) -> None:
        try:
            self.send_frame_bytes(data)
        except Exception:
            self._send_failed(Failure())
        else:
            self.frames_out += 1
            self.edge.metrics.frames_out += 1

    # -- what Autobahn sends by itself

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Send the bytes of a control frame or of the opening handshake (Autobahn's way out)."""
        try:
            super().sendData(data, sync, chopsize)
        except Exception:
            self._send_failed(Failure())

    def _flush(self) -> None:
        try:
            super()._flush()
        except Exception:
            self._joined = None
            self._send_failed(Failure())

    def onPing(self, payload: bytes) -> None:
        """Answer a ping; of those that come while the transport is full, only the last is answered.

        RFC 6455 section 5.5.3 allows that. Otherwise a peer that only pings could fill the memory.
        """
        if self._paused:
            self._pong = payload
        else:
            self.sendPong(payload)

    def _send_failed(self, failure: Failure) -> None:
        if self.closing is None:
            self._log.warn(
                "send failed conn={conn} error={error}",
                conn=self.conn_id,
                error=failure.getErrorMessage(),
            )
        self.abort()
        self.close(CloseCause.SEND_ERROR, CloseCode.INTERNAL, "send failed")

    # -- the transport's pace

    def drains(self) -> bool:
        """Return whether anything has reached the peer's machine since the last look.

        The transport tells only when it is empty, and never of what the kernel holds. The first look
        takes the measure: call it when nothing new will be written.
        """
        left, before = self.pending_bytes + unacknowledged(self.transport), self._left
        self._left = left
        return left < before

    @property
    def queued_bytes(self) -> int:
        """How many bytes wait, those in the transport included."""
        return self.outbox.held + self.pending_bytes

    def discard(self) -> int:
        """Forget what is not written yet; return how many bytes waited, those in the transport included."""
        outbox, waited = self.outbox, self.queued_bytes
        outbox.clear()
        for delivery, count in outbox.discarded.items():
            self.edge.metrics.outbox_dropped(delivery.value, count)
        self._unsent = self._pong = None
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        return waited

    def pauseProducing(self) -> None:
        """The transport holds enough; everything else waits in the outbox."""
        self._paused = self.waiting = True

    def resumeProducing(self) -> None:
        """The transport drained: write what waits until it pauses us again."""
        self._paused = False
        if self.closing is not None:
            return
        now = self.edge.clock.seconds()
        if self.keepalive is not None:
            self.keepalive.progress(now)
        if self._unsent:
            self._long_at = now
        if self._next_turn is None:
            self._drain_on()

    def stopProducing(self) -> None:
        """The transport is gone; ``connectionLost`` follows."""

    def _drain(self) -> None:
        """Write what waits until the transport is full, many frames at once and so many in one turn.

        A send for each frame, or all that fits a peer's window in one turn, would hold up the loop for
        0.1-0.2 s.
        """
        if self._draining:
            return
        self._draining = True
        joins = not self._in_read and not self.pending_bytes
        if joins:
            self._joined = []
        try:
            for _ in range(FRAMES_A_TURN):
                if self._paused or self.closing is not None:
                    return
                if not self._write_next():
                    self.waiting = False
                    return
            self._next_turn = self.edge.clock.callLater(0, self._drain_on)
        finally:
            self._draining = False
            if joins:
                self._flush()
                self._joined = None

    def _drain_on(self) -> None:
        self._next_turn = None
        try:
            self._drain()
            self.pace()
        except Exception:
            self.on_error(Failure())

    def _write_next(self) -> bool:
        """Write one of the frames that wait; return whether there was any."""
        if self._pong is not None:
            pong, self._pong = self._pong, None
            self.sendPong(pong)
        elif self._unsent:
            data = self._unsent.popleft()
            if not self._unsent:
                self._unsent = None
            self.outbox.wrote(len(data))
            self._write(data)
        else:
            payload = self.outbox.take()
            if payload is None:
                return False
            self._write_message(payload, self.outbox.taken)
        return True
