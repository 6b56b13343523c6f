"""What a driver lends to the parts that both have in common: time, timers, things to await, a socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A call that is due."""

    def cancel(self) -> None:
        """Call it no more."""


class Waiter(Protocol):
    """Something that a user awaits, settled once by this side or cancelled by the other."""

    @property
    def awaitable(self) -> Awaitable[Any]:
        """What is handed out: a Deferred, or a Future."""

    def resolve(self, value: Any) -> None:
        """Settle it with a value; after it was settled or cancelled, nothing happens."""

    def reject(self, error: Exception) -> None:
        """Settle it with an error, likewise."""


MakeWaiter = Callable[[Callable[[], None] | None], Waiter]


class WebSocket(Protocol):
    """An open WebSocket, or one that is being opened."""

    def send(self, payload: bytes) -> None:
        """Send one text message."""

    def close(self, code: int, reason: bytes) -> None:
        """Send a close frame."""

    def abort(self) -> None:
        """Cut the connection."""


class Owner(Protocol):
    """Who is told what a WebSocket does."""

    def upgraded(self, websocket: WebSocket) -> None:
        """Take in that the WebSocket is open."""

    def frame_received(self, payload: bytes) -> None:
        """Take in one message."""

    def closing(self) -> None:
        """Take in that a close frame was sent: the peer has to end the connection soon."""

    def ended(self, code: int, reason: str) -> None:
        """Take in why the WebSocket ends, ahead of its end."""

    def lost(self, reason: str) -> None:
        """Take in that the socket is gone; called once, also where none came about."""


class Loop(Protocol):
    """An event loop, as far as a client needs one."""

    def now(self) -> float:
        """Return the time in seconds; it never goes back."""

    def call_later(self, delay: float, function: Callable[[], None]) -> Timer:
        """Call a function after a delay in seconds."""

    def waiter(self, cancelled: Callable[[], None] | None = None) -> Waiter:
        """Return something to await; ``cancelled`` is called where the user cancels it."""

    def dial(self, owner: Owner) -> Callable[[], None]:
        """Begin to open a WebSocket; return what gives up, or cuts what has come about since."""

    def ignored(self, url: str, why: str) -> None:
        """Log that a message of a gateway made no sense."""

    def callback_raised(self) -> None:
        """Log the exception that is being handled: a callback of the client's user raised it."""
