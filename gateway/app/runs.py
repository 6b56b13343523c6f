"""Runs: accepted once, driven one at a time per session, waited for.

A run is accepted when the store holds it and its message; only then is the request answered. The same
idempotency key gives the same run, while it goes, after it ended and after a restart. What happens
between acceptance and end is in :mod:`gateway.app.drive`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from gateway.app.agents import AgentDirectory
from gateway.app.deferreds import shielded
from gateway.app.drive import Drive
from gateway.app.sessions import Sessions
from gateway.config import LimitsConfig
from gateway.core.idempotency import Answer, IdempotencyWindow
from gateway.core.lanes import LaneFull, Lanes
from gateway.core.registry import RegistryFull
from gateway.core.run import Run, RunOutcome, RunOutput
from gateway.errors import GatewayError, InvalidRequest, StoreError, Unavailable, VersionConflict
from gateway.interfaces import IClock, IEntropy, IStore, RunListener
from gateway.metrics import Metrics
from gateway.model import Message, RunRecord, RunRequest, RunState, TurnEnd

MAX_ACTIVE = 10_000
"""Runs that may be accepted or running at once, over all sessions."""

STOP_PATIENCE_S = 2.0
"""How long one run's end is waited for when the gateway stops."""

MAX_AWAITED = 1_000
"""Runs that may be waited for before they exist."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request for a run, checked and with its keys canonical."""

    request: RunRequest
    message: Message
    """The user's message as the transcript keeps it."""
    fingerprint: str
    origin: str
    actor: str
    conn_id: str | None = None
    wants_tools: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a request for a run. ``outcome`` is set if the run has ended before."""

    run_id: str
    fresh: bool
    message_seq: int | None = None
    accepted_at_ms: int = 0
    outcome: RunOutcome | None = None


class Runs:
    """All runs that are not over."""

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        store: IStore,
        agents: AgentDirectory,
        sessions: Sessions,
        limits: LimitsConfig,
        metrics: Metrics,
    ) -> None:
        self.clock = clock
        self.store = store
        self._agents = agents
        self.sessions = sessions
        self.delta_interval_s = limits.delta_interval_ms / 1000
        self._metrics = metrics
        self.epoch = entropy.uuid4()
        """Distinguishes the logs of this process from those of another."""
        self.lanes = Lanes(limits.lane_depth)
        self.window = IdempotencyWindow(
            maximum=limits.idempotency_max, ttl_ms=int(limits.idempotency_ttl_s * 1000)
        )
        self._drives: dict[str, Drive] = {}
        self._listeners: list[RunListener] = []
        self._awaited: dict[str, list[Callable[[RunOutcome], None]]] = {}

    def __len__(self) -> int:
        return len(self._drives)

    def add_listener(self, listener: RunListener) -> None:
        """Call ``listener`` with every output of every run, in order."""
        self._listeners.append(listener)

    def busy(self, session_key: str) -> bool:
        """Whether a run goes or waits in a session."""
        return self.lanes.busy(session_key)

    def get(self, run_id: str) -> Run | None:
        """Return a run that is not over."""
        drive = self._drives.get(run_id)
        return None if drive is None else drive.run

    def going_in(self, session_key: str) -> list[Run]:
        """Return the runs of a session, the one that goes first."""
        found = (self.get(run_id) for run_id in self.lanes.runs(session_key))
        return [run for run in found if run is not None]

    def start(self, turn: Turn) -> Deferred[Started]:
        """Accept a run and start it as soon as its session is free.

        Who cancels the Deferred only stops waiting: what was begun is carried through. Raises
        InvalidRequest where the key was used for other content, and Unavailable where too many runs
        wait or the store did not take it; the key is then free again.
        """
        return shielded(Deferred.fromCoroutine(self._start(turn)))

    def abort(self, run_id: str, stop_reason: str) -> bool:
        """End a run now; return whether there was one to end."""
        drive = self._drives.get(run_id)
        if drive is None or drive.run.state.terminal:
            return False
        drive.abort(stop_reason)
        return True

    def abort_session(self, session_key: str, stop_reason: str) -> list[str]:
        """End all runs of a session, the waiting ones first; return their ids."""
        waiting_first = reversed(self.lanes.runs(session_key))
        return [run_id for run_id in waiting_first if self.abort(run_id, stop_reason)]

    def wait(self, run_id: str, timeout_s: float) -> Deferred[RunOutcome | None]:
        """Return how a run ended, as soon as it has; None after ``timeout_s``. Raises Unavailable."""
        done: Deferred[RunOutcome | None] = Deferred()
        claim = self.window.claims.get(run_id)
        if claim is not None and claim.outcome is not None:
            done.callback(claim.outcome)
            return done
        waiters = self._waiters_of(run_id)

        def fire(outcome: RunOutcome | None) -> None:
            if not done.called:
                done.callback(outcome)

        def forget(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            if fire in waiters:
                waiters.remove(fire)
            if not self._awaited.get(run_id, True):
                del self._awaited[run_id]
            return result

        timer = self.clock.callLater(timeout_s, fire, None)
        waiters.append(fire)
        done.addBoth(forget)
        return done

    async def recover(self) -> int:
        """End the runs that a crash left open; return how many there were."""
        open_runs: tuple[RunRecord, ...] = await self.store.open_runs()
        for record in open_runs:
            await self.store.finish_turn(TurnEnd(run=_interrupted(record, self.clock.now_ms())))
        if open_runs:
            self._log.warn("{count} runs were open after a crash; ended", count=len(open_runs))
        return len(open_runs)

    async def stop(self) -> None:
        """End every run, and wait until the ends are stored."""
        for run_id in list(self._drives):
            self.abort(run_id, "shutdown")
        while self._drives:
            run_id = next(iter(self._drives))
            await self.wait(run_id, STOP_PATIENCE_S)
            if run_id in self._drives:
                self._log.error("run {run} did not end", run=run_id)
                return

    def dispatch(self, output: RunOutput) -> None:
        """Hand an output to every listener; one that raises does not keep it from the others."""
        for listener in self._listeners:
            try:
                listener(output)
            except Exception:
                self._metrics.listener_failed()
                self._log.failure("a listener failed on run {run}", run=output.run.run_id)

    def ended(self, run: Run, outcome: RunOutcome, messages: tuple[Message, ...]) -> None:
        """The end of a run was announced: settle what hangs on it, and let go of it."""
        self._metrics.run_ended(outcome.state.value)
        self.window.settle(run.run_id, outcome, self.clock.now_ms())
        self.sessions.ended(run, outcome, messages)
        waiters, run.waiters = run.waiters, []
        self._forget(run)
        for waiter in waiters:
            try:
                waiter(outcome)
            except Exception:
                self._log.failure("a waiter of run {run} failed", run=run.run_id)

    async def _start(self, turn: Turn) -> Started:
        run_id = turn.request.run_id
        now_ms = self.clock.now_ms()
        try:
            answer, claim = self.window.claim(run_id, turn.fingerprint, run_id, now_ms)
        except RegistryFull as error:
            raise _busy("too many runs") from error
        if answer is Answer.CONFLICT:
            raise _conflict()
        if answer is Answer.SAME:
            return Started(run_id, fresh=False, outcome=claim.outcome, accepted_at_ms=now_ms)
        try:
            run = self._enter(turn, now_ms)
        except GatewayError:
            self.window.release(run_id)
            raise
        return await self._accept(run, turn)

    def _enter(self, turn: Turn, now_ms: int) -> Run:
        """Make the run and put it in its session's lane. Raises Unavailable."""
        if len(self._drives) >= MAX_ACTIVE:
            raise _busy("too many runs")
        request = turn.request
        try:
            self.lanes.enter(request.session_key, request.run_id)
        except LaneFull as error:
            raise _busy("too many messages wait in this session") from error
        run = Run(
            request,
            epoch=self.epoch,
            origin=turn.origin,
            actor=turn.actor,
            fingerprint=turn.fingerprint,
            accepted_at_ms=now_ms,
            conn_id=turn.conn_id,
            tool_recipient=turn.wants_tools,
        )
        run.waiters.extend(self._awaited.pop(run.run_id, ()))
        self._drives[run.run_id] = Drive(run, self)
        self._metrics.runs_active(len(self._drives))
        return run

    async def _accept(self, run: Run, turn: Turn) -> Started:
        """Store the run and its message; then it may go."""
        try:
            session, message = await self.store.accept_turn(
                run.record(), self.sessions.opening(turn.request), turn.message
            )
        except VersionConflict:
            return await self._known(run, turn)
        except StoreError as error:
            self._log.failure("run {run} was not stored", run=run.run_id)
            self._end_unstored(run, f"the session could not be opened: {error}")
            raise Unavailable("the run could not be stored; try again", retryable=True) from error
        except Exception:
            self._end_unstored(run, "the session could not be opened")
            raise
        run.session_id = session.session_id
        self.sessions.accepted(session, message, run)
        drive = self._drives[run.run_id]
        if drive.accept() and self.lanes.runs(run.session_key)[0] == run.run_id:
            self._launch(drive)
        return Started(
            run.run_id,
            fresh=True,
            message_seq=message.seq if message else None,
            accepted_at_ms=run.accepted_at_ms,
        )

    async def _known(self, run: Run, turn: Turn) -> Started:
        """Answer for a run that the store knows from before: a repeat after a restart, or a conflict."""
        self._forget(run)
        self.window.release(run.run_id)
        record: RunRecord | None = await self.store.get_run(run.run_id)
        if record is None or record.fingerprint != turn.fingerprint:
            raise _conflict()
        return Started(
            run.run_id,
            fresh=False,
            accepted_at_ms=record.accepted_at_ms,
            outcome=outcome_of(record),
        )

    def _end_unstored(self, run: Run, error: str) -> None:
        """End a run that never reached the store, so that who watched it sees an end."""
        self.window.release(run.run_id)
        outputs = run.finish(RunState.FAILED, self.clock.now_ms(), error=error)
        for output in outputs:
            self.dispatch(output)
        waiters, run.waiters = run.waiters, []
        self._forget(run)
        for waiter in waiters:
            if outputs[-1].outcome is not None:
                waiter(outputs[-1].outcome)

    def _launch(self, drive: Drive) -> None:
        drive.launch(self._agents.get(drive.run.request.agent_id))

    def _forget(self, run: Run) -> None:
        """Drop a run, and let the next one of its session go."""
        self._drives.pop(run.run_id, None)
        self._metrics.runs_active(len(self._drives))
        following = self.lanes.leave(run.session_key, run.run_id)
        drive = self._drives.get(following) if following is not None else None
        if drive is not None and drive.accepted and not drive.run.state.terminal:
            self._launch(drive)

    def _waiters_of(self, run_id: str) -> list[Callable[[RunOutcome], None]]:
        run = self.get(run_id)
        if run is not None:
            return run.waiters
        if run_id not in self._awaited and len(self._awaited) >= MAX_AWAITED:
            raise Unavailable("too many runs are waited for", retryable=True)
        return self._awaited.setdefault(run_id, [])


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


def _interrupted(record: RunRecord, now_ms: int) -> RunRecord:
    return msgspec.structs.replace(
        record, state=RunState.FAILED, ended_at_ms=now_ms, error="interrupted by a restart"
    )


def _conflict() -> InvalidRequest:
    return InvalidRequest(
        "idempotency key was used for another request",
        details={"reason": "chat-request-conflict"},
    )


def _busy(text: str) -> Unavailable:
    return Unavailable(text, retryable=True, retry_after_ms=1000)
