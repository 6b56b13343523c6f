"""Small things that Deferreds lack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.errors import BackendError, GatewayError

T = TypeVar("T")

_log = Logger()


def shielded(work: Deferred[T]) -> Deferred[T]:
    """Return a Deferred with the result of ``work``; cancelling it leaves ``work`` going.

    A failure that then has nobody to go to is logged, unless it is one that is meant for a client. What is
    added to ``work`` afterwards comes after the callbacks of the Deferred that is returned, and gets None
    in the place of a failure.
    """
    waiting: Deferred[T] = Deferred()

    def done(result: T | Failure) -> T | None:
        if not waiting.called:
            waiting.callback(result)
        elif isinstance(result, Failure) and not result.check(GatewayError):
            _log.failure("nobody waits any more for what failed", failure=result)
        return None if isinstance(result, Failure) else result

    work.addBoth(done)
    return waiting


async def together(works: Sequence[Deferred[T]]) -> list[T]:
    """Return the results of several Deferreds; raises what the first of them fails with.

    Cancelling it cancels all that have no result, and is told as it is everywhere else.
    """
    try:
        return await gatherResults(works, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()


class Link:
    """A callback that can be let go of.

    What is not under our control (a backend, a store) may keep its Deferred for ever, and with it the
    Deferred's callbacks. A link that was used or cut keeps nothing else alive.
    """

    __slots__ = ("_target",)

    def __init__(self, target: Callable[[Any], object]) -> None:
        self._target: Callable[[Any], object] | None = target

    def __bool__(self) -> bool:
        return self._target is not None

    def __call__(self, result: Any) -> None:
        """Pass a result or Failure on, once. What fails after that is only logged."""
        target, self._target = self._target, None
        if target is not None:
            target(result)
        elif isinstance(result, Failure) and not result.check(CancelledError, BackendError):
            _log.warn("failed after it was let go of: {error!r}", error=result.value)

    def cut(self) -> None:
        """Let go of the target."""
        self._target = None


def let_go(work: Deferred[Any], run_id: str) -> None:
    """Cancel a backend's work; one that does not know how to be cancelled ends nothing but itself."""
    try:
        work.cancel()
    except Exception:
        _log.failure("run {run}: its backend could not be cancelled", run=run_id)
