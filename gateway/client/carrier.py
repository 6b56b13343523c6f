"""What carries one connection: a WebSocket on its way from being dialed to being gone.

A client that comes back may have several: the old one is still closing while the new one opens.
``close_timeout`` bounds how long one may linger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.client.loop import Loop, Timer, WebSocket

MAX_REASON_BYTES = 123
"""What a control frame holds beside the code (RFC 6455 section 5.5)."""


class Listener(Protocol):
    """Who has carriers."""

    def upgraded(self, carrier: Carrier) -> None:
        """Take in that the WebSocket is open."""

    def frame_received(self, carrier: Carrier, payload: bytes) -> None:
        """Take in one message."""

    def ended(self, carrier: Carrier, code: int | None, reason: str) -> None:
        """Take in why the connection ended; may come more than once."""

    def gone(self, carrier: Carrier) -> None:
        """Take in that nothing is left of it."""


class Carrier:
    """A WebSocket, and what bounds its end."""

    def __init__(self, loop: Loop, listener: Listener, close_timeout: float) -> None:
        self._loop = loop
        self._listener = listener
        self._close_timeout = close_timeout
        self._websocket: WebSocket | None = None
        self._give_up: Callable[[], None] | None = None
        self._cut: Timer | None = None
        self._gone = False

    def open(self) -> None:
        """Begin to connect; called once."""
        give_up = self._loop.dial(self)
        if not self._gone:
            self._give_up = give_up

    def send(self, payload: bytes) -> None:
        """Send one message."""
        if self._websocket is not None:
            self._websocket.send(payload)

    def close(self, code: int, reason: str) -> None:
        """Close with a close frame, or give up where there is no WebSocket yet."""
        if self._gone:
            return
        if self._websocket is not None:
            cut = reason.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
            self._websocket.close(code, cut)
        elif self._give_up is not None:
            self._give_up()

    # What the WebSocket tells (see Owner).

    def upgraded(self, websocket: WebSocket) -> None:
        """Take in that the WebSocket is open."""
        self._websocket = websocket
        self._listener.upgraded(self)

    def frame_received(self, payload: bytes) -> None:
        """Take in one message."""
        self._listener.frame_received(self, payload)

    def closing(self) -> None:
        """Take in that a close frame was sent: the peer has a limited time to end the connection."""
        if self._cut is None:
            self._cut = self._loop.call_later(self._close_timeout, self._abort)

    def ended(self, code: int, reason: str) -> None:
        """Take in why the WebSocket ends, ahead of its end."""
        self._listener.ended(self, code, reason)

    def lost(self, reason: str) -> None:
        """Take in that the socket is gone."""
        if self._gone:
            return
        self._gone = True
        self._give_up = None
        if self._cut is not None:
            self._cut.cancel()
        self._listener.ended(self, None, reason)
        self._listener.gone(self)

    def _abort(self) -> None:
        self._cut = None
        assert self._websocket is not None, "only a WebSocket sends close frames"
        self._websocket.abort()
