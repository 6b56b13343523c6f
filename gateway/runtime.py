"""The real clock and the real randomness: what tests replace by the doubles of gateway.testing."""

from __future__ import annotations

import gc
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from gateway.interfaces import IClock, IEntropy


def use_steady_time(reactor: Any) -> None:
    """Make a reactor's timers follow the steady clock. To be called before anything is scheduled.

    Twisted's reactors order their timers by the wall clock: when that is set back an hour, every
    timeout comes an hour late. Whoever asks the reactor for the time gets the steady one as well.
    Raises RuntimeError where the reactor runs, or calls have been scheduled, by the wall clock already.
    """
    if reactor.running or reactor.getDelayedCalls():
        raise RuntimeError("the reactor runs or has scheduled calls by the wall clock already")
    reactor.seconds = time.monotonic


def keep_for_good() -> None:
    """Spare what the start has made from every later collection of garbage.

    Modules and the wiring stay anyway; to look through them holds the loop for some 40 ms each time.
    """
    gc.collect()
    gc.freeze()


@implementer(IClock)
class SystemClock:
    """The reactor's timers, a steady ``seconds()`` and the system's wall clock."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def seconds(self) -> float:
        """Return seconds since an arbitrary moment; never goes back."""
        return time.monotonic()

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> IDelayedCall:
        """Call later, as IReactorTime says."""
        call: IDelayedCall = self._reactor.callLater(delay, callable, *args, **kwargs)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """Return what is scheduled."""
        calls: Sequence[IDelayedCall] = self._reactor.getDelayedCalls()
        return calls


@implementer(IEntropy)
class SystemEntropy:
    """The operating system's randomness."""

    def token_bytes(self, size: int) -> bytes:
        """Return ``size`` unpredictable bytes."""
        return secrets.token_bytes(size)

    def uuid4(self) -> str:
        """Return a random UUID as lower-case text."""
        return str(uuid.uuid4())

    def fraction(self) -> float:
        """Return a number in [0, 1)."""
        return secrets.randbits(53) / (1 << 53)
