"""One delay for many: who stays too long, with one timer for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

AT_ONCE: Final = 1
"""Most deadlines that expire in one turn of the loop."""

log = Logger()


class Deadlines:
    """Calls ``expired(member)`` for every member that stays longer than ``seconds``.

    One timer for all of them: with one delay for all, the order of joining is the order of expiry. Of many
    that expire at once a few are called in each turn of the loop.
    What ``expired`` raises is logged, and the others still get their call.
    """

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float,
        expired: Callable[[Any], object],
        *,
        most: int | None = None,
    ) -> None:
        """``most``: of more members than that the oldest expires at once."""
        self._clock = clock
        self._seconds = seconds
        self._expired = expired
        self._most = most
        self._due: dict[Any, float] = {}
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, member: object) -> bool:
        return member in self._due

    def add(self, member: Any) -> None:
        """Start the member's time."""
        self._due[member] = self._clock.seconds() + self._seconds
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._sweep)
        if self._most is not None and len(self._due) > self._most:
            self._expire(next(iter(self._due)))

    def discard(self, member: Any) -> None:
        """Forget a member, if it is one. The timer is left to run out: most connections are short."""
        self._due.pop(member, None)

    def stop(self) -> list[Any]:
        """Forget all members, end the timer, and return who they were."""
        members = list(self._due)
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return members

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        expired: list[Any] = []
        for member, due in self._due.items():
            if due > now or len(expired) == AT_ONCE:
                self._timer = self._clock.callLater(max(0.0, due - now), self._sweep)
                break
            expired.append(member)
        for member in expired:
            self._expire(member)

    def _expire(self, member: Any) -> None:
        self._due.pop(member, None)
        try:
            self._expired(member)
        except Exception:
            log.failure("deadline of {member} failed", member=member)
