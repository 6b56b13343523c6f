"""Whether a process that has work to do shows any sign of life."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from gateway.interfaces import IClock


class Liveness:
    """Calls ``on_hang`` when, while there is work, nothing was heard for ``timeout_s``; 0 waits for ever.

    Who waits for us is not hanging: between :meth:`pause` and :meth:`unpause` time does not count, nor
    :meth:`during` an answer.
    """

    def __init__(self, clock: IClock, timeout_s: float, on_hang: Callable[[], None]) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._on_hang = on_hang
        self._work = 0
        self._pauses = 0
        self._heard = 0.0
        self._timer: IDelayedCall | None = None

    def sign(self) -> None:
        """It lives. Cheap: it may be called for every byte."""
        self._heard = self._clock.seconds()

    def begin(self) -> None:
        """There is one piece of work more."""
        if self._work == 0:
            self.sign()
        self._work += 1
        self._arm()

    def end(self) -> None:
        """There is one piece of work less."""
        self._work -= 1
        self._arm()

    def pause(self) -> None:
        """It waits for an answer of ours, such as an operator's to a question."""
        self._pauses += 1
        self._arm()

    def unpause(self) -> None:
        """It was answered: it has all the time again."""
        self._pauses -= 1
        self.sign()
        self._arm()

    def during(self, answer: Any) -> Any:
        """Return an answer of ours to it; if that is a Deferred, time does not count until it fires."""
        if isinstance(answer, Deferred):
            self.pause()
            answer.addBoth(self._answered)
        return answer

    def _answered(self, result: Any) -> Any:
        self.unpause()
        return result

    def _arm(self) -> None:
        watching = self._work > 0 and self._pauses == 0 and self._timeout_s > 0
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
