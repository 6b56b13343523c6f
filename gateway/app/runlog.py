"""The log of run events on its way to the store: collected, and written in one batch per reactor turn.

What of a run still waits when the run ends goes to the store together with the end, in one transaction:
so a stored end is never without the events before it, and nothing is left when the gateway stops.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.core.run import RunOutput
from gateway.errors import StoreError
from gateway.interfaces import IClock, IStore
from gateway.model import RunEvent

MAX_WAITING = 50_000
"""Events that may wait for a store that does not answer; what comes beyond is not kept."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Bytes of data that may wait, likewise."""


class RunLog:
    """Appends the outputs of runs to the store: the first listener of the runs."""

    _log = Logger()

    def __init__(
        self,
        store: IStore,
        clock: IClock,
        *,
        max_waiting: int = MAX_WAITING,
        max_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._store = store
        self._clock = clock
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._waiting: dict[str, list[RunEvent]] = {}
        self._count = 0
        self._bytes = 0
        self._call: IDelayedCall | None = None
        self._writing = False
        self._failing = False
        self.lost = 0
        """Events that were not kept because the store did not take them."""

    def __len__(self) -> int:
        """How many events wait."""
        return self._count

    def __call__(self, output: RunOutput) -> None:
        """Take an output; those of a run that has ended are stored with its end instead."""
        if output.run.state.terminal:
            return
        if self._count >= self._max_waiting or self._bytes >= self._max_bytes:
            self._lose(1, "the store takes no run events; further ones are not kept")
            return
        self._waiting.setdefault(output.run.run_id, []).append(output.record())
        self._count += 1
        self._bytes += len(output.data)
        self._schedule()

    def take(self, run_id: str) -> tuple[RunEvent, ...]:
        """Return the events of a run that still wait; whoever takes them stores them."""
        events = self._waiting.pop(run_id, ())
        self._count -= len(events)
        self._bytes -= sum(len(event.data) for event in events)
        if self._call is not None and not self._waiting:
            self._call.cancel()
            self._call = None
        return tuple(events)

    def _schedule(self) -> None:
        if self._call is None and not self._writing:
            self._call = self._clock.callLater(0, self._write)

    def _write(self) -> None:
        self._call = None
        batch = [event for events in self._waiting.values() for event in events]
        self._waiting = {}
        self._count = self._bytes = 0
        self._writing = True
        written: Deferred[None] = maybeDeferred(self._store.append_events, batch)
        written.addCallbacks(self._written, self._failed, errbackArgs=(len(batch),))
        written.addCallback(lambda _: self._next())

    def _next(self) -> None:
        self._writing = False
        if self._waiting:
            self._schedule()

    def _written(self, _: None) -> None:
        if self._failing:
            self._failing = False
            self._log.info("run events are stored again; lost={lost}", lost=self.lost)

    def _failed(self, failure: Failure, count: int) -> None:
        if not failure.check(StoreError):
            self._log.failure("storing run events failed", failure=failure)
        self._lose(count, f"{count} run events were not stored: {failure.getErrorMessage()}")

    def _lose(self, count: int, text: str) -> None:
        """Count what is lost; one line tells of it until the store works again."""
        self.lost += count
        if not self._failing:
            self._failing = True
            self._log.error("{text}", text=text)
