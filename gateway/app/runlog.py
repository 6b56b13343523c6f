"""The log of run events on its way to the store: collected, and written in one batch per reactor turn.

What of a run still waits when the run ends goes to the store together with the end, in one transaction:
so a stored end is never without the events before it. What the store refuses is kept and tried again,
run by run then, so that what is wrong with one run's events does not keep out those of the others.

Until an event is stored it can be read here: whoever reads a log finds each event here or in the store.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from gateway.core.run import Run, RunOutput
from gateway.errors import StoreError
from gateway.interfaces import IClock, IStore
from gateway.model import RunEvent, RunState

MAX_WAITING = 50_000
"""Events that may wait for a store that does not answer; what comes beyond is not kept."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Bytes of data that may wait, likewise. What is being written when it fails comes on top."""

MAX_ENDINGS = 1000
"""Runs whose end may be on its way to the store while it can be read here."""

RETRY_S = 1.0
"""When events that the store did not take are offered again."""

MAX_TRIES = 3
"""How often a run's events are refused by a store that works before they are given up."""

_Batch = dict[str, list[RunEvent]]
_seq = attrgetter("seq")


class Ending(NamedTuple):
    """The end of a run that is not stored yet: its state, its answer, the last events of its log."""

    state: RunState
    text: str | None
    """None where only the log tells it."""
    events: tuple[RunEvent, ...]


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
        self._waiting: _Batch = {}
        self._writing: _Batch = {}
        self._endings: dict[str, Ending] = {}
        self._tries: dict[str, int] = {}
        self._count = 0
        self._bytes = 0
        self._call: IDelayedCall | None = None
        self._write_over: Deferred[None] | None = None
        self._held_up = False
        """Whether events wait that the store has refused."""
        self._failing = False
        """Whether the log has said that the store takes no events."""
        self._stopping = False
        self.lost = 0
        """Events that were not kept because the store did not take them."""

    def __len__(self) -> int:
        """How many events wait."""
        return self._count

    def __call__(self, output: RunOutput) -> None:
        """Take an output; those of a run that has ended are stored with its end instead."""
        run, event = output.run, output.record()
        run.tail.push(event, output.text)
        if run.state.terminal:
            return
        if self._count >= self._max_waiting or self._bytes >= self._max_bytes:
            self._lose(1, "too many wait for the store")
            return
        self._waiting.setdefault(run.run_id, []).append(event)
        self._count += 1
        self._bytes += len(event.data)
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

    def end(self, run: Run, outputs: Sequence[RunOutput]) -> tuple[RunEvent, ...]:
        """Return the events to store with a run's end; they are held until :meth:`settled`."""
        events = (*self.take(run.run_id), *(output.record() for output in outputs))
        if len(self._endings) >= MAX_ENDINGS:
            del self._endings[next(iter(self._endings))]
        self._endings[run.run_id] = Ending(
            run.state, None if run.tail.text is None else run.text, events
        )
        return events

    def settled(self, run_id: str) -> None:
        """Hold the end of a run no more: it is stored, or was given up."""
        self._endings.pop(run_id, None)

    # -- for those who read

    def ending(self, run_id: str) -> Ending | None:
        """Return the end of a run that is on its way to the store."""
        return self._endings.get(run_id)

    def after(self, run_id: str, seq: int, limit: int) -> Sequence[RunEvent]:
        """Return the events right behind a number as far as they are here; none if they are not."""
        ending = self._endings.get(run_id)
        held = (self._writing.get(run_id), self._waiting.get(run_id), ending and ending.events)
        for events in filter(None, held):
            start = bisect_left(events, seq + 1, key=_seq)
            found = unbroken(events[start : start + limit], seq)
            if found:
                return found
        return ()

    # -- writing

    async def stop(self) -> None:
        """Offer what waits to the store once more, for the last time."""
        self._stopping = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        while self._waiting or self._write_over is not None:
            if self._write_over is None:
                self._write()
            else:
                await self._write_over

    def _schedule(self) -> None:
        if self._call is None and self._write_over is None:
            self._call = self._clock.callLater(RETRY_S if self._held_up else 0, self._write)

    def _write(self) -> None:
        self._call = None
        self._writing, self._waiting = self._waiting, {}
        self._count = self._bytes = 0
        self._write_over = Deferred()
        writing = Deferred.fromCoroutine(self._write_out())
        writing.addErrback(lambda failure: self._log.failure("writing run events", failure=failure))
        writing.addCallback(lambda _: self._next())

    def _next(self) -> None:
        over, self._write_over = self._write_over, None
        if self._waiting and not self._stopping:
            self._schedule()
        assert over is not None
        over.callback(None)

    async def _write_out(self) -> None:
        """Store what is in ``_writing``; what the store refuses waits again."""
        run_ids = list(self._writing)
        error: StoreError | None = None
        stored = False
        for group in [[run_id] for run_id in run_ids] if self._held_up else [run_ids]:
            events = [event for run_id in group for event in self._writing[run_id]]
            try:
                await maybeDeferred(self._store.append_events, events)
            except StoreError as refusal:
                error = refusal
                if self._store.failing is not None:
                    break  # the others would fare no better
                self._refused(group, refusal)
            except Exception as failure:
                self._log.failure("storing run events failed")
                self._give_up(group, str(failure))
            else:
                stored = True
                self._let_go(group)
        if stored and error is None:
            self._works()
        self._keep(error)

    def _refused(self, group: list[str], error: StoreError) -> None:
        """The store works, and does not take these: a run's that it refuses too often are given up."""
        if len(group) > 1:
            return  # whose fault it is shows when each is offered alone
        tries = self._tries[group[0]] = self._tries.get(group[0], 0) + 1
        if tries >= MAX_TRIES:
            self._give_up(group, str(error))

    def _give_up(self, group: list[str], why: str) -> None:
        count = sum(len(self._writing[run_id]) for run_id in group)
        self._let_go(group)
        self._lose(count, why)

    def _let_go(self, group: list[str]) -> None:
        for run_id in group:
            del self._writing[run_id]
            self._tries.pop(run_id, None)

    def _keep(self, error: StoreError | None) -> None:
        """Put what was refused before what came meanwhile; there is no next time once we stop."""
        if error is not None and self._stopping:
            self._give_up(list(self._writing), str(error))
        self._held_up = bool(self._writing)
        if not self._held_up:
            return
        kept = sum(map(len, self._writing.values()))
        self._tell("{count} run events wait until the store takes them: {error}", kept, error)
        newer = self._waiting
        self._waiting, self._writing = self._writing, {}
        for run_id, events in newer.items():
            self._waiting.setdefault(run_id, []).extend(events)
        self._count = sum(map(len, self._waiting.values()))
        self._bytes = sum(len(e.data) for events in self._waiting.values() for e in events)

    def _works(self) -> None:
        if self._failing:
            self._failing = False
            self._log.info("run events are stored again; lost={lost}", lost=self.lost)

    def _lose(self, count: int, why: object) -> None:
        self.lost += count
        self._tell("{count} run events were not stored: {error}", count, why)

    def _tell(self, text: str, count: int, error: object) -> None:
        """Say that the store does not take events: in one line until it works again."""
        if not self._failing:
            self._failing = True
            self._log.error(text, count=count, error=error)


def unbroken(events: Sequence[RunEvent], seq: int) -> Sequence[RunEvent]:
    """Return the beginning of ``events`` that follows the number ``seq`` without a hole."""
    for count, event in enumerate(events):
        if event.seq != seq + count + 1:
            return events[:count]
    return events
