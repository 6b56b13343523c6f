"""How a run begins: its key claimed, its place in the session taken, and kept by the store.

A request is answered when the store holds the run and its message, and not before. The same idempotency key
gives the same run, while it goes, after it ended and after a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from gateway.app.agents import AgentDirectory
from gateway.app.drive import Drive
from gateway.app.ends import outcome_of
from gateway.app.recovery import last_seq
from gateway.app.turn import Started, Turn
from gateway.core.idempotency import Answer
from gateway.core.lanes import LaneFull
from gateway.core.registry import RegistryFull
from gateway.core.run import Run, RunOutcome
from gateway.errors import InvalidRequest, StoreError, Unavailable, VersionConflict
from gateway.model import QueueMode, RunRecord, RunRequest, RunState, encode_request

if TYPE_CHECKING:
    from gateway.app.runs import Runs


class Acceptance:
    """Takes the requests for runs."""

    _log = Logger()

    def __init__(self, runs: Runs, agents: AgentDirectory) -> None:
        self._runs = runs
        self._agents = agents
        self._first: dict[str, tuple[Turn, list[Deferred[None]]]] = {}
        """The requests that are being decided, by run, and who repeats them meanwhile."""

    async def start(self, turn: Turn) -> Started:
        """Accept a run; it does not go before who asked is answered. Raises as :meth:`Runs.start`.

        Whoever called calls :meth:`settled` afterwards. A repeat is not answered before that: it would be
        told of a run that the store may not take.
        """
        runs, run_id = self._runs, turn.request.run_id
        await runs.recovery.opened()
        while run_id in self._first:
            waiting: Deferred[None] = Deferred()
            self._first[run_id][1].append(waiting)
            await waiting
        now_ms = runs.clock.now_ms()
        if runs.stopping:
            raise _busy("the gateway is stopping")
        try:
            # What goes has its key in the window, so the window bounds the runs as well.
            now = runs.clock.seconds()
            answer, claim = runs.window.claim(run_id, turn.fingerprint, run_id, now)
        except RegistryFull as error:
            raise _busy("too many runs") from error
        if answer is Answer.CONFLICT:
            raise _conflict()
        if answer is Answer.SAME:
            run = runs.get(run_id)
            accepted_at_ms = now_ms if run is None else run.accepted_at_ms
            return Started(run_id, False, accepted_at_ms=accepted_at_ms, outcome=claim.outcome)
        self._first[run_id] = (turn, [])
        try:
            if turn.prepare is not None and await runs.store.get_run(run_id) is None:
                await turn.prepare()
            drive = self._enter(turn, now_ms)
        except Exception as error:
            runs.window.release(run_id)
            self._never_came(turn.request, error)
            raise
        return await self._accept(drive, turn)

    def settled(self, turn: Turn) -> None:
        """A request was answered: those that repeat it are looked at."""
        run_id = turn.request.run_id
        first, waiting = self._first.get(run_id, (None, []))
        if first is turn:
            del self._first[run_id]
            for each in waiting:
                each.callback(None)

    def _never_came(self, request: RunRequest, error: Exception) -> None:
        """Tell those who wait for its end that there is no run."""
        outcome = RunOutcome(
            run_id=request.run_id,
            session_key=request.session_key,
            session_id=request.session_id,
            state=RunState.FAILED,
            started_at_ms=None,
            ended_at_ms=self._runs.clock.now_ms(),
            error=str(error),
        )
        self._runs.tell_awaited(request.run_id, outcome)

    def _enter(self, turn: Turn, now_ms: int) -> Drive:
        """Make the run and put it in its session's lane. Raises Unavailable."""
        runs, request = self._runs, turn.request
        if runs.stopping:  # since it was looked at
            raise _busy("the gateway is stopping")
        if turn.check_room is not None:
            turn.check_room()
        try:
            ahead = request.queue_mode is QueueMode.INTERRUPT
            first = runs.lanes.enter(request.session_key, request.run_id, ahead=ahead)
        except LaneFull as error:
            raise self._lane_full(request.session_key) from error
        run = Run(
            request,
            epoch=runs.epoch,
            origin=turn.origin,
            actor=turn.actor,
            fingerprint=turn.fingerprint,
            accepted_at_ms=now_ms,
            conn_id=turn.conn_id,
            tool_recipient=turn.wants_tools,
        )
        expires_at = runs.clock.seconds() + runs.queued_ttl_s
        drive = Drive(run, runs, noted=first, expires_at=expires_at)
        return runs.take_in(drive)

    def _record(self, drive: Drive) -> RunRecord:
        """Return what is stored of a run when it is accepted.

        One that goes at once is stored as running: it needs no second write before it starts. Its
        request is only kept if it may be needed after a crash, for it can be as large as a message.
        """
        run, request, now = drive.run, drive.run.request, drive.noted
        agent = self._agents.get(request.agent_id)
        keep = not now or (agent is not None and agent.reruns)
        values: dict[str, Any] = {"request_json": encode_request(request)} if keep else {}
        if now:
            values |= {"state": RunState.RUNNING, "started_at_ms": run.accepted_at_ms}
        return msgspec.structs.replace(run.record(), **values)

    async def _accept(self, drive: Drive, turn: Turn) -> Started:
        """Store the run and its message; then it may go."""
        runs, run = self._runs, drive.run
        kept = runs.ends.before(run.session_key)
        if kept is not None:
            await kept
        try:
            session, message = await runs.store.accept_turn(
                self._record(drive), runs.sessions.opening(turn.request), turn.message
            )
        except VersionConflict:
            return await self._known(drive, turn)
        except StoreError as error:
            # What is wrong with the store is logged once, by itself.
            self._log.warn("run {run} was not stored: {error}", run=run.run_id, error=str(error))
            self._end_unstored(run, f"the session could not be opened: {error}")
            raise _not_stored() from error
        except Exception:
            self._end_unstored(run, "the session could not be opened")
            raise
        run.session_id = session.session_id
        if message is not None:
            drive.question.put(message)
        if drive.noted:
            drive.question.tell()
        runs.announce(runs.sessions.accepted, session, run)
        drive.accept(session)
        return Started(
            run.run_id,
            fresh=True,
            message_seq=message.seq if message else None,
            accepted_at_ms=run.accepted_at_ms,
        )

    async def _known(self, drive: Drive, turn: Turn) -> Started:
        """Answer for a run that the store knows from before: a repeat after a restart, or a conflict.

        One that is open there and driven by nobody goes, where it is this request's and never began, else
        it ends. Who waits for its id is told how it ended.
        """
        runs, run, run_id = self._runs, drive.run, drive.run.run_id
        try:
            record: RunRecord | None = await runs.store.get_run(run_id)
            if record is None:
                raise StoreError("it is gone again")
            outcome = outcome_of(record) or runs.ends.outcome(run_id)
            session = await runs.store.get_session(run.session_key)
            seq = 0 if outcome is not None else await last_seq(runs.store, run_id)
        except StoreError as error:
            self._log.failure("run {run} was not looked up", run=run_id)
            failed = run.finish(RunState.FAILED, runs.clock.now_ms(), error=str(error))
            self._drop(run, failed[-1].outcome)
            raise _not_stored() from error
        same = record.fingerprint == turn.fingerprint
        if outcome is not None:
            self._drop(run, outcome)
            now = runs.clock.seconds()
            runs.window.adopt(run_id, record.fingerprint, run_id, now)
            runs.window.settle(run_id, outcome, now)
        elif same and record.epoch == runs.epoch and not seq:
            # It was stored although the store said no, and the client was told to try again.
            run.session_id, run.accepted_at_ms = record.session_id, record.accepted_at_ms
            drive.noted = record.state is RunState.RUNNING
            drive.accept(session)
            return Started(run_id, fresh=True, accepted_at_ms=record.accepted_at_ms)
        else:
            # Another request may have come under its key, even for another session.
            runs.window.release(run_id)
            runs.leave(run)
            runs.go_on(run.session_key)
            outcome = await runs.recovery.end(record, seq, run.waiters)
        if not same:
            raise _conflict()
        return Started(run_id, False, accepted_at_ms=record.accepted_at_ms, outcome=outcome)

    def _end_unstored(self, run: Run, error: str) -> None:
        """End a run that never reached the store, so that who watched it sees an end."""
        runs = self._runs
        outputs = run.finish(RunState.FAILED, runs.clock.now_ms(), error=error)
        for output in outputs:
            runs.dispatch(output)
        runs.metrics.run_ended(RunState.FAILED.value)
        self._drop(run, outputs[-1].outcome)

    def _lane_full(self, session_key: str) -> Unavailable:
        """Return the refusal of a session where too many runs wait: it names the one that goes."""
        first, *waiting = self._runs.lanes.runs(session_key)
        error = _busy("too many messages wait in this session")
        error.details = {"reason": "session-busy", "waiting": len(waiting)}
        drive = self._runs.drive(first)
        if drive is not None:  # else the session is held by something that is no run
            error.details |= {
                "runId": first,
                "since": drive.run.started_at_ms or drive.run.accepted_at_ms,
                "busyMs": drive.busy_ms,
            }
        return error

    def _drop(self, run: Run, outcome: RunOutcome | None) -> None:
        """Let go of a run that was never accepted; its key is free again."""
        runs = self._runs
        assert outcome is not None
        runs.window.release(run.run_id)
        runs.leave(run)
        runs.tell(run.waiters, outcome)
        runs.go_on(run.session_key)


def _conflict() -> InvalidRequest:
    return InvalidRequest(
        "idempotency key was used for another request",
        details={"reason": "chat-request-conflict"},
    )


def _not_stored() -> Unavailable:
    return Unavailable("the run could not be stored; try again", retryable=True)


def _busy(text: str) -> Unavailable:
    return Unavailable(text, retryable=True, retry_after_ms=1000)
