"""Answers that are held back, each for its own time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from gateway.net.deadlines import Deadlines


class Delays:
    """Calls ``over(member)`` when a member's own delay is over.

    There are few different delays, and for each of them one timer.
    """

    def __init__(self, clock: IReactorTime, over: Callable[[Any], object]) -> None:
        self._clock = clock
        self._over = over
        self._by_delay: dict[float, Deadlines] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_delay.values()))

    def add(self, member: Any, seconds: float) -> None:
        """Hold a member back."""
        deadlines = self._by_delay.get(seconds)
        if deadlines is None:
            deadlines = self._by_delay[seconds] = Deadlines(self._clock, seconds, self._over)
        deadlines.add(member)

    def discard(self, member: Any) -> None:
        """Forget a member, if it is held back."""
        for deadlines in self._by_delay.values():
            deadlines.discard(member)
