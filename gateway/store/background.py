"""One long piece of work on a thread of its own, which can be given up."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from gateway.store.writer import CallFromThread

T = TypeVar("T")

Unwanted = Callable[[], bool]
"""Tells a piece of work, in its own thread, whether nobody waits for it any more."""


class Background(Generic[T]):
    """A piece of work. It is asked to give up when its Deferred is cancelled.

    :ivar deferred: fires in the reactor's thread with what the work returns or raises.
    :ivar ended: fires after that, when the thread is gone, whatever became of the work.
    """

    def __init__(
        self, name: str, work: Callable[[Unwanted], T], call_from_thread: CallFromThread
    ) -> None:
        self.deferred: Deferred[T] = Deferred(lambda _: self.give_up())
        self.ended: Deferred[None] = Deferred()
        self._work = work
        self._call_from_thread = call_from_thread
        self._unwanted = Event()
        # A daemon: a process that has to die must not wait for a disk that hangs.
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def give_up(self) -> None:
        """Ask the work to end soon; it raises whatever it likes."""
        self._unwanted.set()

    def _run(self) -> None:
        result: T | Failure
        try:
            result = self._work(self._unwanted.is_set)
        except Exception:
            result = Failure()
        self._call_from_thread(self._deliver, result)

    def _deliver(self, result: T | Failure) -> None:
        # The thread has nothing left to do but to return.
        self._thread.join()
        if not self.deferred.called:
            self.deferred.callback(result)
        self.ended.callback(None)
