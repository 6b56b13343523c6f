"""Whether a process that has work to do shows any sign of life."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from gateway.interfaces import IClock


class Liveness:
    """Calls ``on_hang`` when, while there is work, nothing was heard for ``timeout_s``; 0 waits for ever.

    Who waits for us is not hanging: between :meth:`pause` and :meth:`unpause` of a piece of work time does
    not count for it, nor :meth:`during` an answer; for the other pieces it does.
    """

    def __init__(self, clock: IClock, timeout_s: float, on_hang: Callable[[], None]) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._on_hang = on_hang
        self._work: dict[object, int] = {}
        """The answers of ours that each piece of work waits for."""
        self._heard = 0.0
        self._timer: IDelayedCall | None = None

    def sign(self) -> None:
        """It lives. Cheap: it may be called for every byte."""
        self._heard = self._clock.seconds()

    def begin(self, work: object) -> None:
        """There is one piece of work more."""
        if not self._watched():
            self.sign()
        self._work[work] = 0
        self._arm()

    def end(self, work: object) -> None:
        """There is one piece of work less."""
        del self._work[work]
        self._arm()

    def pause(self, work: object) -> None:
        """A piece of work waits for an answer of ours, such as an operator's to a question."""
        if work in self._work:
            self._work[work] += 1
            self._arm()

    def unpause(self, work: object) -> None:
        """It was answered: it has all the time again."""
        if work in self._work:
            self._work[work] -= 1
            self.sign()
            self._arm()

    def during(self, answer: Any, work: object) -> Any:
        """Return an answer; if that is a Deferred, time does not count for ``work`` until it fires."""
        if isinstance(answer, Deferred) and work in self._work:
            self.pause(work)
            answer.addBoth(self._answered, work)
        return answer

    def _answered(self, result: Any, work: object) -> Any:
        self.unpause(work)
        return result

    def _watched(self) -> bool:
        return self._timeout_s > 0 and not all(self._work.values())

    def _arm(self) -> None:
        watching = self._watched()
        if watching and self._timer is None:
            due = self._heard + self._timeout_s - self._clock.seconds()
            self._timer = self._clock.callLater(max(0.0, due), self._look)
        elif not watching and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._clock.seconds() - self._heard < self._timeout_s:
            self._arm()
        else:
            self._on_hang()
