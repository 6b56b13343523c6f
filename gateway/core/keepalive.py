"""When to ping a silent peer, and when to give it up: judged by progress, not by the ping's age alone.

A peer is silent when nothing came from it for ``silence`` seconds; then it is pinged. It is gone when,
``timeout`` seconds after the ping, nothing came *and* none of our bytes drained: a ping may stand
behind a large frame on a slow link, and a peer that still takes bytes is alive.
"""

from __future__ import annotations

from enum import Enum


class Check(Enum):
    """What a check asks for."""

    WAIT = "wait"
    PING = "ping"
    DEAD = "dead"


class Keepalive:
    """The silence of one connection. Times are float seconds of one monotonic clock."""

    __slots__ = ("_last_progress", "_last_seen", "_pinged_at", "_silence", "_timeout")

    def __init__(self, now: float, *, silence: float, timeout: float) -> None:
        self._silence = silence
        self._timeout = timeout
        self._last_seen = now
        self._last_progress = now
        self._pinged_at: float | None = None

    def seen(self, now: float) -> None:
        """Something came from the peer: data or a pong."""
        self._last_seen = now
        self._pinged_at = None

    def progress(self, now: float) -> None:
        """Bytes of ours drained towards the peer."""
        self._last_progress = now

    def check(self, now: float) -> Check:
        """Return what to do now; after PING the answer is awaited."""
        if self._pinged_at is not None:
            if now - max(self._pinged_at, self._last_progress) >= self._timeout:
                return Check.DEAD
            return Check.WAIT
        if now - self._last_seen >= self._silence:
            self._pinged_at = now
            return Check.PING
        return Check.WAIT
