"""Small things that Deferreds lack."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def shielded(work: Deferred[T]) -> Deferred[T]:
    """Return a Deferred with the result of ``work``; cancelling it leaves ``work`` going."""
    waiting: Deferred[T] = Deferred()

    def done(result: object) -> None:
        if not waiting.called:
            waiting.callback(result)  # type: ignore[arg-type]

    work.addBoth(done)
    return waiting
