"""The public test kit: doubles that provide the gateway's interfaces, without a reactor."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.interfaces import IClock, IEntropy

T = TypeVar("T")


@implementer(IClock)
class FakeClock(Clock):
    """A ``task.Clock`` that also tells the wall time; it starts at 2023-11-14T22:13:20Z."""

    EPOCH_MS = 1_700_000_000_000

    def now_ms(self) -> int:
        """Return the fake wall time in milliseconds since the epoch."""
        return self.EPOCH_MS + round(self.seconds() * 1000)


@implementer(IEntropy)
class FakeEntropy:
    """Repeatable randomness: the same seed gives the same bytes."""

    def __init__(self, seed: str = "seed") -> None:
        self._seed = seed
        self._count = 0

    def token_bytes(self, size: int) -> bytes:
        """Return ``size`` bytes that differ with every call."""
        self._count += 1
        digest = sha256(f"{self._seed}:{self._count}".encode()).digest()
        return (digest * (size // len(digest) + 1))[:size]

    def uuid4(self) -> str:
        """Return text in the shape of a UUID."""
        value = self.token_bytes(16).hex()
        return f"{value[:8]}-{value[8:12]}-4{value[13:16]}-8{value[17:20]}-{value[20:]}"

    def fraction(self) -> float:
        """Return a number in [0, 1)."""
        return int.from_bytes(self.token_bytes(4), "big") / 2**32


def result_of(deferred: Deferred[T]) -> T:
    """Return what a Deferred fired with; raise what it failed with, or AssertionError if it waits."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    if not results:
        raise AssertionError("the Deferred has not fired")
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]  # type: ignore[no-any-return]
