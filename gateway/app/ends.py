"""Ends of runs: stored, then announced; what the store did not take is kept, and stored as soon as it works.

The announcement waits for the store at most :data:`STORE_PATIENCE_S`, so that the end always arrives.
Clients have seen the ends that are kept, so they stand; what is missing is the record, the answer in the
transcript and the end of the log. They are kept in order, boundedly many; the oldest is given up first.
Who asks how such a run ended is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.app.deferreds import Link
from gateway.app.sessions import Sessions
from gateway.core.run import RunOutcome
from gateway.core.transcript import text_of
from gateway.errors import StoreError, VersionConflict
from gateway.interfaces import IClock, IStore
from gateway.metrics import Metrics
from gateway.model import Message, RunRecord, TurnEnd

STORE_PATIENCE_S = 1.0
"""How long the end of a run waits for the store before it is announced."""

MAX_ENDS = 1_000
MAX_BYTES = 64 * 1024 * 1024
EVENT_OVERHEAD = 200
"""Bytes that a kept record takes beside its data, about."""

PAUSES_S = (0.25, 0.5, 1.0, 2.0, 5.0)
"""How long after a failure they are tried again; the last pause stays."""

RECENT = 50
"""Messages among which an answer is looked for that had been stored although the store said no."""


_log = Logger()


@dataclass(slots=True)
class _End:
    end: TurnEnd
    size: int
    asked: bool
    """Whether the store was asked and has not answered: it must not be asked twice."""


class Ends:
    """The ends that wait for the store."""

    def __init__(
        self,
        *,
        store: IStore,
        clock: IClock,
        sessions: Sessions,
        metrics: Metrics,
        settled: Callable[[str], None] = lambda _run_id: None,
        maximum: int = MAX_ENDS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Make it empty; ``settled`` is called with each run whose end is stored, or given up."""
        self._store = store
        self._clock = clock
        self._sessions = sessions
        self._metrics = metrics
        self._settled = settled
        self._maximum = maximum
        self._max_bytes = max_bytes
        self._ends: dict[str, _End] = {}
        self._bytes = 0
        self._failures = 0
        self._call: IDelayedCall | None = None
        self._passing: Deferred[None] | None = None
        self.dropped = 0
        """How many were given up."""

    def __len__(self) -> int:
        return len(self._ends)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._ends

    @property
    def records(self) -> list[RunRecord]:
        """The runs whose ends wait here, as the store will have them."""
        return [kept.end.run for kept in self._ends.values()]

    def record(self, run_id: str) -> RunRecord | None:
        """Return a run whose end waits here."""
        kept = self._ends.get(run_id)
        return None if kept is None else kept.end.run

    def outcome(self, run_id: str) -> RunOutcome | None:
        """Return how a run ended whose end waits here."""
        record = self.record(run_id)
        return None if record is None else outcome_of(record)

    def store(self, end: TurnEnd, announce: Link, *, not_before: float) -> None:
        """Store an end, then announce it; whoever waits is told after a second in any case.

        :param announce: is called with the messages that were stored, once, and not before the steady clock
            says ``not_before``.
        """
        run, clock, patience = end.run, self._clock, None

        def stored(messages: tuple[Message, ...]) -> None:
            self.stored(run.run_id)
            tell(messages)

        def tell(messages: tuple[Message, ...]) -> None:
            if announce:
                if patience is not None:
                    patience.cancel()
                early = not_before - clock.seconds()
                if early > 0:
                    # A real client waits for ever if the end comes in one read with the answer.
                    clock.callLater(early, announce, messages)
                else:
                    announce(messages)
            else:
                self._sessions.announce_messages(run.session_key, run.agent_id, messages)

        def failed(failure: Failure) -> None:
            _log.failure("run {run}: its end was not stored", failure=failure, run=run.run_id)
            self.keep(end)
            tell(())

        def give_up_waiting() -> None:
            self.hold(end)
            announce(())

        storing: Deferred[Any] = maybeDeferred(self._store.finish_turn, end)
        storing.addCallbacks(stored, failed)
        storing.addErrback(lambda failure: _log.failure("announcing an end", failure=failure))
        if not storing.called:
            patience = clock.callLater(STORE_PATIENCE_S, give_up_waiting)

    def hold(self, end: TurnEnd) -> None:
        """Know of an end for which the store was asked and has not answered in time."""
        self._put(end, asked=True)

    def keep(self, end: TurnEnd) -> None:
        """Keep an end that the store did not take, and try again after a pause."""
        self._put(end, asked=False)
        self._schedule()

    def stored(self, run_id: str) -> None:
        """The store has the end of a run: whatever was held of it is let go."""
        self._forget(run_id)
        self._settled(run_id)

    def _forget(self, run_id: str) -> None:
        kept = self._ends.pop(run_id, None)
        if kept is not None:
            self._bytes -= kept.size
            self._metrics.ends_waiting(len(self._ends))

    def before(self, session_key: str) -> Deferred[None] | None:
        """Offer what is kept of a session to the store now: what follows must not be stored before it.

        Returns when the store has answered, whatever it said; None where there is nothing to wait for.
        """
        mine = (each for each in self._ends.values() if each.end.run.session_key == session_key)
        if self._store.failing or all(each.asked for each in mine):
            return None
        if self._passing is None:
            self._unschedule()
            self._begin()
        if self._passing is None:
            return None  # it was over at once
        over: Deferred[None] = Deferred()
        self._passing.chainDeferred(over)
        return over

    async def stop(self) -> None:
        """Try once more; what the store does not take now is logged and lost with the process."""
        self._unschedule()
        if self._passing is not None:
            await self._passing
        await self._pass()
        for run_id in self._ends:
            _log.error("run {run}: its end was not stored before the stop", run=run_id)

    def _put(self, end: TurnEnd, *, asked: bool) -> None:
        run_id = end.run.run_id
        self._forget(run_id)
        size = _size_of(end)
        self._ends[run_id] = _End(end, size, asked)
        self._bytes += size
        while len(self._ends) > self._maximum or self._bytes > self._max_bytes:
            oldest = next(iter(self._ends))
            _log.error("run {run}: its end is given up, too many wait", run=oldest)
            self._give_up(oldest)
        self._metrics.ends_waiting(len(self._ends))

    def _give_up(self, run_id: str) -> None:
        self.stored(run_id)
        self.dropped += 1
        self._metrics.end_dropped()

    def _schedule(self) -> None:
        if self._call is None and self._passing is None:
            pause = PAUSES_S[min(self._failures, len(PAUSES_S) - 1)]
            self._call = self._clock.callLater(pause, self._begin)

    def _unschedule(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _begin(self) -> None:
        self._call = None
        passing: Deferred[None] = Deferred()
        self._passing = passing
        work = Deferred.fromCoroutine(self._pass())
        work.addErrback(lambda failure: _log.failure("storing ends of runs", failure=failure))
        work.addCallback(lambda _: self._passed(passing))

    def _passed(self, passing: Deferred[None]) -> None:
        self._passing = None
        passing.callback(None)
        if any(not kept.asked for kept in self._ends.values()):
            self._schedule()

    async def _pass(self) -> None:
        """Give every end to the store, the oldest first, until it does not work."""
        refused = False
        for run_id in list(self._ends):
            kept = self._ends.get(run_id)
            if kept is None or kept.asked:
                continue
            if await self._try(kept.end):
                self._failures = 0
                continue
            refused = True
            if self._store.failing:
                break
        self._failures += refused

    async def _try(self, end: TurnEnd) -> bool:
        """Store an end and tell those who follow the session; return whether it is done with."""
        run = end.run
        messages: tuple[Message, ...] = ()
        try:
            messages = await self._store.finish_turn(end)
        except VersionConflict:
            # An earlier attempt was stored although it was said to have failed.
            messages = await self._answer_of(end)
        except StoreError as error:
            text = "run {run}: its end still waits for the store: {error}"
            _log.warn(text, run=run.run_id, error=error)
            return False
        except Exception:
            _log.failure("run {run}: its end can't be stored", run=run.run_id)
            self._give_up(run.run_id)
            return True
        self.stored(run.run_id)
        _log.info("run {run}: its end is stored now", run=run.run_id)
        self._sessions.announce_messages(run.session_key, run.agent_id, messages)
        return True

    async def _answer_of(self, end: TurnEnd) -> tuple[Message, ...]:
        """Return the messages of an end as the transcript has them, as far as they can be had."""
        wanted = {message.message_id for message in end.messages}
        try:
            recent: tuple[Message, ...] = await self._store.list_messages(
                end.run.session_id, limit=RECENT
            )
        except StoreError:
            return ()
        return tuple(message for message in recent if message.message_id in wanted)


def outcome_of(record: RunRecord) -> RunOutcome | None:
    """Return the outcome of a stored run, or None if it is open."""
    if not record.state.terminal:
        return None
    return RunOutcome(
        run_id=record.run_id,
        session_key=record.session_key,
        session_id=record.session_id,
        state=record.state,
        started_at_ms=record.started_at_ms,
        ended_at_ms=record.ended_at_ms or record.accepted_at_ms,
        stop_reason=record.stop_reason,
        error=record.error,
    )


def _size_of(end: TurnEnd) -> int:
    """Return what an end takes of the memory, about."""
    events = sum(len(event.data) + EVENT_OVERHEAD for event in end.events)
    return events + sum(len(text_of(each.content)) + EVENT_OVERHEAD for each in end.messages)
