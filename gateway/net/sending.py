"""The sending half of a connection: at most 64 KiB in the transport, everything else in the outbox.

While nothing waits and the transport takes what it is given, a frame is written at once; otherwise it
goes through the outbox, which merges, sheds or overflows. A long message is sent in fragments, so that
a ping or the close frame can go between them.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.core.events import Event
from gateway.core.keepalive import Keepalive
from gateway.core.outbox import Outbox, Verdict
from gateway.errors import CloseCause, CloseCode
from gateway.net.closing import Closing
from gateway.net.edge import Edge
from gateway.net.fastpath import SLICE, FastPathMixin, fragments, frame


@implementer(IPushProducer)
class Sending(FastPathMixin):
    """What a connection needs to send; the other half says who it is and when it ends."""

    _log = Logger()
    edge: Edge
    protocol = 4
    conn_id = ""
    outbox: Outbox
    keepalive: Keepalive | None = None
    closing: Closing | None = None
    frames_out = 0
    _paused = False
    _draining = False
    _unsent: deque[bytes] | None = None

    def close(self, cause: CloseCause, code: int, reason: str, **details: Any) -> None:
        """Close the connection."""
        raise AssertionError("the other half of the connection closes it")

    def deliver(self, event: Event) -> None:
        """Send a broadcast event, or let it wait; a form in this version exists."""
        if self.closing is not None:
            return
        outbox = self.outbox
        if self._paused or outbox or self._unsent:
            self._check(outbox.put(event, self.edge.clock.seconds()))
        elif event.size(self.protocol) < SLICE - 64:
            self._write(event.framed(self.protocol, outbox.next_seq(), frame))
        else:
            self._write_message(event.encoded(self.protocol, outbox.next_seq()))

    def deliver_direct(self, event: Event) -> None:
        """Send an event to this connection only, without a number."""
        if event.parts(self.protocol) is not None:
            self._send(event.encoded(self.protocol, None))

    def _send(self, payload: bytes) -> None:
        if self.closing is not None:
            return
        if self._paused or self.outbox or self._unsent:
            self._check(self.outbox.put_direct(payload, self.edge.clock.seconds()))
        else:
            self._write_message(payload)

    def _check(self, verdict: Verdict) -> None:
        if verdict is Verdict.OVERFLOW:
            self._slow_consumer()
        elif verdict is Verdict.SHED:
            self.edge.metrics.outbox_dropped("droppable")

    def _slow_consumer(self) -> None:
        queued = self.outbox.queued
        self.close(CloseCause.SLOW_CONSUMER, CloseCode.POLICY, "slow consumer", queuedBytes=queued)

    def _write_message(self, payload: bytes) -> None:
        if len(payload) < SLICE - 16:
            self._write(frame(payload))
            return
        self._unsent = deque(fragments(payload))
        self._write_unsent()

    def _write_unsent(self) -> None:
        while self._unsent and not self._paused and self.closing is None:
            data = self._unsent.popleft()
            if not self._unsent:
                self._unsent = None
            self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            self.send_frame_bytes(data)
        except Exception:
            self._send_failed(Failure())
        else:
            self.frames_out += 1

    def _send_failed(self, failure: Failure) -> None:
        if self.closing is None:
            self._log.warn(
                "send failed conn={conn} error={error}",
                conn=self.conn_id,
                error=failure.getErrorMessage(),
            )
        self.close(CloseCause.SEND_ERROR, CloseCode.INTERNAL, "send failed")

    def pauseProducing(self) -> None:
        """The transport holds enough; everything else waits in the outbox."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The transport drained: write what waits until it pauses us again."""
        self._paused = False
        if self.keepalive is not None:
            self.keepalive.progress(self.edge.clock.seconds())
        if self._draining:
            return
        self._draining = True
        try:
            self._drain()
        finally:
            self._draining = False

    def _drain(self) -> None:
        while not self._paused and self.closing is None:
            if self._unsent:
                self._write_unsent()
                continue
            payload = self.outbox.take()
            if payload is None:
                return
            self._write_message(payload)

    def stopProducing(self) -> None:
        """The transport is gone; ``connectionLost`` follows."""
