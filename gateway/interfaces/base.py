"""Time, randomness, and a connection as the use-cases see it."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from zope.interface import Attribute, Interface


class IClock(IReactorTime):
    """Time, injected: ``seconds()`` never goes back, ``now_ms()`` is the wall clock."""

    def now_ms() -> int:
        """Return milliseconds since the epoch."""


class IEntropy(Interface):
    """Randomness, injected."""

    def token_bytes(size: int) -> bytes:
        """Return ``size`` unpredictable bytes."""

    def uuid4() -> str:
        """Return a random UUID as lower-case text."""

    def fraction() -> float:
        """Return a number in [0, 1), for jitter."""


class IConnection(Interface):
    """One connection as the hub and the handlers see it."""

    conn_id: str = Attribute("UUID of the connection.")
    protocol: int = Attribute("Protocol version chosen for it: 3 or 4.")
    caller: Any = Attribute("The gateway.app.context.Caller of an authenticated connection.")
    waiting: bool = Attribute("Whether what it is sent has to wait, since its peer reads slowly.")

    def deliver(event: Any) -> None:
        """Queue or write one broadcast event (gateway.core.events.Event); takes a connection number."""

    def deliver_direct(event: Any) -> None:
        """Queue or write one event to this connection only, without a number."""

    def close(cause: Any, code: int, reason: str, **details: Any) -> None:
        """Close it. Idempotent: the first cause stays, later details are merged."""
