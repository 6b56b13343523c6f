"""The log of a run as one: what is in memory, what is on its way to the store, what is stored.

A reader names the number it stands at; each call looks again where the next event is. So nothing has to
be held still while the store reads: what happens meanwhile is found by the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger

from gateway.app.ends import outcome_of
from gateway.app.runlog import unbroken
from gateway.app.runs import Runs
from gateway.core.frames import decode
from gateway.core.run import RunOutcome
from gateway.errors import StoreError
from gateway.interfaces import IClock, IStore
from gateway.model import EventSpan, RunEvent, RunRecord, RunState

T = TypeVar("T")

CHUNK: Final = 64
"""Events read from the store at once."""

PATIENCE_S: Final = 5.0
"""How long the store may take for one operation."""

EVENT_BYTES: Final = 120
"""What an event takes of an answer beside its data."""


class Hole(Exception):
    """The events that follow are not there. ``through`` is the last one that is missing."""

    def __init__(self, through: int) -> None:
        super().__init__(f"the log lacks its events up to {through}")
        self.through = through


@dataclass(frozen=True, slots=True)
class LogView:
    """A log at one moment: the events ``first_seq`` to ``last_seq`` of an epoch, as far as is known."""

    run_id: str
    epoch: str
    first_seq: int
    last_seq: int
    state: RunState
    live: bool = False
    """Whether more events come, and this process makes them."""
    text: str | None = None
    """The answer up to ``last_seq``; None where the transcript, or the log, has to tell."""
    outcome: RunOutcome | None = None
    """How the run ended, where the store tells."""


class LogReader:
    """Reads the logs of runs. Raises StoreError, also where the store does not answer in time."""

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IClock,
        store: IStore,
        runs: Runs,
        answer_text: Callable[[str, str], Coroutine[Any, Any, str]],
    ) -> None:
        self._clock = clock
        self._store = store
        self._runs = runs
        self._answer_text = answer_text

    def live(self, run_id: str) -> LogView | None:
        """Return the log of a run that is not over in this process, as far as its events were shown."""
        run = self._runs.live(run_id)
        if run is None or run.tail.text is None:
            return None  # what is about to be ended is read where it is
        tail = run.tail
        # The end is made before it is stored and shown.
        state = RunState.RUNNING if run.state.terminal else run.state
        return LogView(run_id, run.epoch, 1, tail.last_seq, state, live=True, text=tail.text)

    async def view(self, run_id: str) -> LogView | None:
        """Return the log of a run; None for a run that is unknown or was forgotten."""
        view = self._here(run_id)
        if view is not None:
            return view
        # The record last: of a run that it calls open, what comes next is behind what was seen of the log.
        span: EventSpan | None = await self._in_time(self._store.event_span(run_id))
        record: RunRecord | None = None
        if span is not None:
            record = await self._in_time(self._store.get_run(run_id))
            if record is not None and record.epoch != span.epoch:
                return await self.view(run_id)  # its log was taken over between the two
        view = self._here(run_id)
        if view is not None:
            return view  # it was on its way between the two
        if record is None or span is None:
            return None
        return LogView(
            run_id,
            span.epoch,
            span.first_seq,
            max(span.last_seq, record.last_seq if record.state.terminal else 0),
            record.state,
            outcome=outcome_of(record),
        )

    def _here(self, run_id: str) -> LogView | None:
        """Return the log of a run that is live, or whose end is on its way to the store."""
        view = self.live(run_id)
        ending = self._runs.log.ending(run_id)
        if view is not None or ending is None or ending.text is None:
            return view
        last = ending.events[-1]
        return LogView(run_id, last.epoch, 1, last.seq, ending.state, text=ending.text)

    async def page(
        self, view: LogView, seq: int, limit: int, max_bytes: int
    ) -> tuple[RunEvent, ...]:
        """Return events behind a number, at least one, in so many bytes or fewer if that can be.

        Raises Hole where the log has events behind that number, but not the next one.
        """
        found: list[RunEvent] = []
        size = 0
        while len(found) < limit and seq < view.last_seq:
            wanted = min(limit - len(found), view.last_seq - seq, CHUNK)
            events = await self._chunk(view, seq, wanted, found)
            if not events:
                break
            for event in events:
                size += len(event.data) + EVENT_BYTES
                if size > max_bytes and found:
                    return tuple(found)
                found.append(event)
            seq = found[-1].seq
        return tuple(found)

    async def _chunk(
        self, view: LogView, seq: int, limit: int, found: Sequence[RunEvent]
    ) -> Sequence[RunEvent]:
        run = self._runs.live(view.run_id)
        if run is not None and run.epoch == view.epoch and (tail := run.tail.after(seq, limit)):
            return tail
        held = self._runs.log.after(view.run_id, seq, limit)
        if held and held[0].epoch == view.epoch:
            return held
        stored: tuple[RunEvent, ...] = await self._in_time(
            self._store.list_events(view.run_id, after_seq=seq, limit=limit, epoch=view.epoch)
        )
        events = unbroken(stored, seq)
        if not events and not found:
            raise Hole(stored[0].seq - 1 if stored else view.last_seq)
        return events

    async def text_of(self, view: LogView) -> str:
        """Return the answer of a run up to the end of its log.

        Of a run that has ended it is in the transcript, unless the gateway died with it: then the log tells.
        """
        if view.text is not None:
            return view.text
        if view.outcome is not None:
            asked = self._answer_text(view.outcome.session_id, view.run_id)
            text = await self._in_time(Deferred.fromCoroutine(asked))
            if text:
                return text
        return await self._text_in_log(view)

    async def _text_in_log(self, view: LogView) -> str:
        """Return the answer that the events make, as far as there is no hole."""
        pieces: list[str] = []
        seq = 0
        try:
            while seq < view.last_seq and view.first_seq <= 1:
                for event in await self.page(view, seq, CHUNK, 1 << 20):
                    seq = event.seq
                    if event.stream == "assistant":
                        data = decode(event.data)
                        pieces = [] if data.get("replace") else pieces
                        pieces.append(data["delta"])
        except Hole:
            self._log.warn("the log of run {run} has a hole", run=view.run_id)
        return "".join(pieces)

    async def _in_time(self, reading: Deferred[T]) -> T:
        try:
            return await reading.addTimeout(PATIENCE_S, self._clock)
        except TimeoutError as error:
            raise StoreError("it does not answer") from error
