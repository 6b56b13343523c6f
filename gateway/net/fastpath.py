"""The hot paths: what Autobahn and Twisted do per message and per connection, done faster.

Everything here overrides a method of a library and must not be told apart from it, save by the clock
and what a docstring names: ``tests/net/test_fastpath.py`` feeds the same bytes to both classes, split
at every place, and compares every callback, every byte sent and the state after each piece. Whatever
is unusual (a control frame, a fragment, a compressed, unmasked or invalid frame) goes to the base
class, one frame at a time.

Figures: operations per second of the server's CPU on one core, Python 3.11, the asyncio reactor; 100
connections with 8 requests in flight (RPC), 300-byte frames to 500 connections (fan-out) or from 20
(inbound). Repeats differ by up to 15 %, under other load by more. The parts have theirs beside them.

==================  ========  ===========  ======================================
all of it, one run  Autobahn  this module  behind the switch of gateway.net.port
==================  ========  ===========  ======================================
RPC                 30-39k    168-187k     177-181k
fan-out             38-45k    105-132k     125-151k
inbound             53-64k    348-544k     547-563k
handshakes          2.2-2.6k  7.2-10.0k    5.7-7.6k
KB per connection   9.3       2.6          2.1
==================  ========  ===========  ======================================
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

import autobahn.twisted.websocket
import autobahn.websocket.protocol
from autobahn.twisted.util import peer2str
from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.net.heads import BLANK_LINE, unambiguous
from gateway.net.port import MAX_HEAD, refusal
from gateway.net.transport import PAUSE_ABOVE, SLICE, FastPort, FastServer, pending_bytes
from gateway.net.wsframes import fragments, frame, frame_end, frame_header, unmasked

__all__ = [
    "PAUSE_ABOVE",
    "SLICE",
    "ClockTimer",
    "FastPathMixin",
    "FastPort",
    "FastServer",
    "disable_handshake_logging",
    "fragments",
    "frame",
    "frame_header",
    "pending_bytes",
    "prepare",
]

_OPEN: Final = WebSocketServerProtocol.STATE_OPEN
_CONNECTING: Final = WebSocketServerProtocol.STATE_CONNECTING
_CLOSED: Final = WebSocketServerProtocol.STATE_CLOSED
_HANDSHAKE_ATTRIBUTES: Final = (
    "_wskey",
    "http_headers",
    "http_request_data",
    "http_request_params",
    "http_response_data",
    "http_status_line",
)


class _Unheard:
    """Stands for a Deferred that nobody waits for."""

    def callback(self, result: object) -> None:
        """Drop the result."""


class FastPathMixin(WebSocketServerProtocol):  # type: ignore[misc]
    """Autobahn's server protocol with faster paths; give it as the first base class.

    Differences from the base class that can be seen:

    - The "message" signal of Autobahn is not fired, and ``is_open``/``is_closed`` never fire (a
      Deferred per message: 15 % of inbound; a reference cycle per connection).
    - ``onMessageBegin``, ``onMessageFrame`` and their like are not called for frames that take the
      fast path; ``trafficStats`` does not count them, and is one for all connections of a factory.
    - What is sent while a read is being handled leaves in one write at its end (RPC 1.2-1.6 times),
      in the order of sending, whether by us or by Autobahn, and before the connection is dropped.
    - A head over 16 KiB is answered 431, an ambiguous one 400; a refusal is a whole response.
    - The head of the request is forgotten once ``onOpen`` has returned (1.3 KB a connection).

    As in the base class, an exception from ``onMessage`` leaves the read and the reactor drops the
    connection: a subclass must catch its own. What was sent before it still goes out.
    """

    data: bytes
    message_data: Any
    send_queue: Any = ()
    is_open = is_closed = _Unheard()
    _transport_details = None
    _first_state_is_shared = False

    _in_read = False
    _joined: list[bytes] | None = None
    _joined_size = 0
    _reading_paused = False
    _unread = b""

    @cached_property
    def utf8validator(self) -> Any:
        """Autobahn's validator, made when the base class first needs it."""
        return Utf8Validator()

    def __init__(self) -> None:
        """Make neither the two Deferreds nor the transport details of the base class."""

    @property
    def pending_bytes(self) -> int:
        """Bytes written to this connection that the kernel has not taken yet."""
        return self._joined_size + pending_bytes(self.transport)

    def send_frame_bytes(self, data: bytes) -> None:
        """Send whole frames, in order with all else that is sent. At most SLICE bytes at once."""
        joined = self._joined
        if joined is None:
            self.transport.write(data)
            return
        joined.append(data)
        self._joined_size += len(data)
        if self._joined_size > PAUSE_ABOVE:
            self._flush()

    def pause_reading(self) -> None:
        """Take no more messages: neither from the transport nor from what was already read."""
        self._reading_paused = True
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Take messages again, those already read at once (unless called from ``onMessage``)."""
        self._reading_paused = False
        if self.state != _CLOSED:
            self.transport.resumeProducing()
        if self._unread and not self._in_read:
            self.dataReceived(b"")

    # -- reading

    def dataReceived(self, data: bytes) -> None:
        """Handle a read, and send what came of it in one write."""
        if self._unread:
            data, self._unread = self._unread + data, b""
        if self._reading_paused or self._in_read:
            self._unread = data  # TLS delivers what it had decrypted
            return
        self._in_read = True
        if not pending_bytes(self.transport):
            self._joined = []
        try:
            self._consume(data)
        finally:
            self._in_read = False
            self._flush()
            self._joined = None

    def _consume(self, data: bytes) -> None:
        if self.data and self.state != _CONNECTING and self.current_frame is None:
            data, self.data = self.data + data, b""  # the start of a header
        at, end = 0, len(data)
        while at < end and self.state != _CLOSED:
            if self.state == _OPEN and self.current_frame is None and not self.inside_message:
                at = self._take_plain_frames(data, at, end)
            if at < end and not self._reading_paused:
                at = self._take_any_frame(data, at, end)
            if self._reading_paused:
                self._unread = data[at:] + self._unread
                return
            if self._unread:  # came behind the handshake
                data, self._unread = data[at:] + self._unread, b""
                at, end = 0, len(data)

    def _take_plain_frames(self, data: bytes, at: int, end: int) -> int:
        """Deliver whole, unfragmented, masked, uncompressed messages; return where they end.

        Inbound 9 times, RPC 2.5 times: the base class copies the rest of the read twice per frame
        (26 %), allocates a masker (25 %) and a validator run (8 %) for each.
        """
        if not self.applyMask or self.logFrames or self.logOctets or self.trackTimings:
            return at
        deliver = self.onMessage
        while end - at >= 6:
            first = data[at]
            length = data[at + 1] - 128
            if first != 0x81 and first != 0x82:
                break
            if 0 < length < 126:
                mask_at = at + 2
            elif length == 126 and end - at >= 8:
                mask_at = at + 4
                length = data[at + 2] << 8 | data[at + 3]
                if length < 126:
                    break
            else:
                break
            payload_at = mask_at + 4
            next_at = payload_at + length
            if (
                next_at > end
                or 0 < self.maxMessagePayloadSize < length  # may change with any message
                or 0 < self.maxFramePayloadSize < length
            ):
                break
            payload = unmasked(data[mask_at:payload_at], data[payload_at:next_at], length)
            if first == 0x81 and not payload.isascii():
                try:
                    payload.decode()
                except UnicodeDecodeError:
                    break
            if self.autoPingTimeoutCall and self.autoPingRestartOnAnyTraffic:
                self._cancelAutoPingTimeoutCall()
            at = next_at
            deliver(payload, first == 0x82)
            if self.state != _OPEN or self._reading_paused:
                break
        return at

    def _take_any_frame(self, data: bytes, at: int, end: int) -> int:
        """Give the base class the next frame, or what there is of it; return where that ends.

        One frame at a time, so that what follows takes the fast path again (a read that ends within a
        frame would leave the next reads to the base class for good) and a pause holds between frames.
        """
        if self.state == _CONNECTING or self.data:
            stop = end
        elif self.current_frame is not None:
            stop = at + self.current_frame.length - self.current_frame_masker.pointer()
        else:
            stop = frame_end(data, at, end)
        stop = min(stop, end) if stop > at else end
        self._dataReceived(data[at:stop])
        return stop

    def onMessageEnd(self) -> None:
        """Deliver a message that the base class put together, without its signal."""
        if not self.failedByMe:
            self._onMessage(b"".join(self.message_data), self.message_is_binary)
        self.message_data = None

    # -- sending

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Send bytes of the base class: 1.3 times without the texts for a log that is off."""
        if sync or chopsize or self.send_queue:
            self._flush()
            if not self.send_queue:
                self.send_queue = deque()
            super().sendData(data, sync, chopsize)
        else:
            self.send_frame_bytes(data)

    def _flush(self) -> None:
        joined = self._joined
        if joined:
            self._joined_size = 0
            self.transport.write(joined[0] if len(joined) == 1 else b"".join(joined))
            # Join on only while nothing is pending, or joined bytes would pile up over the limit.
            self._joined = None if pending_bytes(self.transport) else []

    def _closeConnection(self, abort: bool = False) -> None:  # noqa: N802
        self._flush()
        super()._closeConnection(abort)

    # -- the connection

    def connectionMade(self) -> None:
        """Start the handshake; without Autobahn's TransportDetails (8 us and 0.4 KB)."""
        self.peer = peer2str(self.transport)
        if self.factory.tcpNoDelay:
            # Autobahn asks for this before it has copied the option, and so never does it.
            with suppress(AttributeError, OSError):  # no TCP
                self.transport.setTcpNoDelay(True)
        self._connectionMade()

    def _connectionMade(self) -> None:  # noqa: N802
        if not self._first_state_is_shared:
            super()._connectionMade()
            return
        self.factory.countConnections += 1
        if self.openHandshakeTimeout > 0:
            self.openHandshakeTimeoutCall = self.factory._batched_timer.call_later(
                self.openHandshakeTimeout, self.onOpenHandshakeTimeout
            )

    def processHandshake(self) -> None:
        """Refuse a head that is too large or ambiguous; else as the base class."""
        end = self.data.find(BLANK_LINE, 0, MAX_HEAD + len(BLANK_LINE))
        if end < 0 and len(self.data) >= MAX_HEAD + len(BLANK_LINE):
            self.failHandshake(f"the request head is larger than {MAX_HEAD} bytes", 431)
            return
        try:
            self.data = self.data if end < 0 else unambiguous(self.data, end)
        except ValueError as error:
            self.failHandshake(str(error))
        else:
            super().processHandshake()

    def sendHttpErrorResponse(  # noqa: N802
        self,
        code: int,
        reason: str,
        responseHeaders: Any = None,  # noqa: N803 - Autobahn's name
    ) -> None:
        """Answer a refused handshake whole; what broke inside is not told."""
        text = "" if code == 500 else reason
        kind = "proxy_attribution_required" if code == 403 else None
        self.sendData(refusal(code, text, responseHeaders or (), kind=kind))

    def _onOpen(self) -> None:  # noqa: N802
        self._unread, self.data = self.data, b""
        self.onOpen()
        for name in _HANDSHAKE_ATTRIBUTES:
            self.__dict__.pop(name, None)
        if self._unread and not self._in_read and not self._reading_paused:
            self.dataReceived(b"")


class ClockTimer:
    """Autobahn's timers on a clock of ours: it takes them from a global reactor by itself."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock

    def call_later(self, delay: float, function: Any, *args: Any) -> IDelayedCall:
        """Call ``function(*args)`` after ``delay`` seconds."""
        return self._clock.callLater(delay, function, *args)


def disable_handshake_logging() -> None:
    """Stop Autobahn from making texts for log lines that are off. Idempotent.

    ``pprint.pformat`` of the options takes 43 % of a handshake (2 times the handshakes on epoll, 1.4
    times on asyncio), the coloured names of ``hltype`` and ``hlval`` a quarter of the rest.
    """
    for module in (autobahn.websocket.protocol, autobahn.twisted.websocket):
        for name in ("pformat", "hltype", "hlval"):
            if hasattr(module, name):
                setattr(module, name, _no_text)


def _no_text(value: object, *args: object) -> str:
    return ""


_CONSTANT: Final = (type(None), bool, int, float, str, bytes)
_OWN: Final = {"factory", "trafficStats", "utf8validator", "send_queue"}


def prepare(factory: Any, clock: IReactorTime) -> None:
    """Make the first state of a factory's connections once, and put Autobahn's timers on ``clock``.

    Call it after the last ``setProtocolOptions``: later changes of the options are not seen. Autobahn
    copies 29 options to every connection and sets 28 constants on it; the subclass that is made here
    has them as class attributes (a third of what is left of the handshake, 2.5 KB a connection).

    Raises RuntimeError where Autobahn's first state is not the same for every connection.
    """
    factory._batched_timer = ClockTimer(clock)
    protocol = factory.protocol
    state, other = _first_state(factory), _first_state(factory)
    constants = {name: value for name, value in state.items() if isinstance(value, _CONSTANT)}
    options = {
        # A function must stay one: as a plain class attribute it would become a method.
        name: staticmethod(value) if callable(value := getattr(factory, name)) else value
        for name in protocol.CONFIG_ATTRS
        if not hasattr(protocol, name)
    }
    strange = set(state) - set(constants) - set(options) - _OWN
    strange |= {name for name, value in constants.items() if other[name] != value}
    if strange:
        raise RuntimeError(f"unknown state of an Autobahn connection: {sorted(strange)}")
    factory.protocol = type(
        protocol.__name__,
        (protocol,),
        {
            **constants,
            **options,
            "trafficStats": state["trafficStats"],
            "__module__": protocol.__module__,
            "CONFIG_ATTRS": (),
            "_first_state_is_shared": True,
        },
    )


def _first_state(factory: Any) -> dict[str, Any]:
    blank = object.__new__(factory.protocol)
    blank.factory = factory
    blank.openHandshakeTimeout = 0
    WebSocketServerProtocol._connectionMade(blank)
    factory.countConnections -= 1
    return {name: value for name, value in vars(blank).items() if name != "openHandshakeTimeout"}
