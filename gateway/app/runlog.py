"""The log of run events on its way to the store: collected, and written in one batch per reactor turn."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.core.run import RunOutput
from gateway.interfaces import IClock, IStore
from gateway.model import RunEvent

MAX_WAITING = 50_000
"""Events that may wait for a store that does not answer; what comes beyond is not kept."""


class RunLog:
    """Appends the outputs of runs to the store. A listener of :class:`gateway.app.runs.Runs`."""

    _log = Logger()

    def __init__(self, store: IStore, clock: IClock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: list[RunEvent] = []
        self._scheduled = False
        self._writing = False
        self.lost = 0
        """Events that were not kept because the store did not take them."""

    def __call__(self, output: RunOutput) -> None:
        """Take an output; the last ones of a run are stored with its end instead."""
        if output.run.state.terminal:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.lost += 1
            if self.lost == 1:
                self._log.error("the store takes no run events; further ones are not kept")
            return
        self._waiting.append(output.record())
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._writing:
            self._scheduled = True
            self._clock.callLater(0, self._write)

    def _write(self) -> None:
        self._scheduled = False
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        self._writing = True
        written: Deferred[None] = self._store.append_events(batch)
        written.addErrback(self._failed, len(batch))
        written.addCallback(lambda _: self._written())

    def _written(self) -> None:
        self._writing = False
        if self._waiting:
            self._schedule()

    def _failed(self, failure: Failure, count: int) -> None:
        self.lost += count
        self._log.failure("{count} run events were not stored", failure=failure, count=count)
