"""What blocks, done elsewhere: how the use-cases see the thread pool."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool


class InThread(Protocol):
    """Runs a function in a thread; the Deferred fires with what it returns or raises."""

    def __call__(self, function: Any, /, *args: Any) -> Deferred[Any]:
        """Begin at once; who cancels the Deferred only stops waiting."""


def here(function: Any, /, *args: Any) -> Deferred[Any]:
    """Run a function at once, in no thread: for gateways in memory."""
    return maybeDeferred(function, *args)


def in_thread(reactor: Any) -> InThread:
    """Return what runs a function in a thread of the reactor's pool."""

    def run(function: Any, /, *args: Any) -> Deferred[Any]:
        running: Deferred[Any] = deferToThreadPool(
            reactor, reactor.getThreadPool(), function, *args
        )
        return running

    return run
