"""Runs: accepted, driven one at a time per session, ended exactly once.

A run is accepted when the store holds it and its message; only then is the request answered. It is
announced as ended when its end is stored, or when the store took longer than a second or failed: the
end always arrives. Whatever happens (the backend returns, raises, hangs, is aborted, gives what can't
be encoded) goes through :meth:`Runs._finish`, and nothing of the run stays behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.app.agents import AgentDirectory
from gateway.app.sessions import Sessions
from gateway.app.sink import Sink
from gateway.config import LimitsConfig
from gateway.core.idempotency import Answer, IdempotencyWindow
from gateway.core.lanes import LaneFull, Lanes
from gateway.core.registry import RegistryFull
from gateway.core.run import EncodeFailed, Run, RunOutcome, RunOutput
from gateway.errors import (
    BackendError,
    BackendErrorKind,
    GatewayError,
    InvalidRequest,
    StoreError,
    Unavailable,
    VersionConflict,
)
from gateway.interfaces import IClock, IEntropy, IStore, RunListener
from gateway.metrics import Metrics
from gateway.model import Message, RunRecord, RunRequest, RunResult, RunState, TurnEnd

STORE_PATIENCE_S = 1.0
"""How long the end of a run waits for the store before it is announced."""

MAX_ACTIVE = 10_000
"""Runs that may be accepted or running at once, over all sessions."""

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
    persist: bool = True


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a request for a run. ``outcome`` is set if the run has ended before."""

    run_id: str
    fresh: bool
    message_seq: int | None = None
    accepted_at_ms: int = 0
    outcome: RunOutcome | None = None


@dataclass(slots=True)
class _Drive:
    """What moves a run: its sink, what its backend owes, and its timeout."""

    run: Run
    sink: Sink | None = None
    work: Deferred[RunResult] | None = None
    timeout: IDelayedCall | None = None
    accepted: bool = False
    """Whether the store has it; an end before that waits for it."""
    doomed: str | None = None
    """The stop reason of an abort that came before the run was accepted."""

    def release(self) -> None:
        """Let go of everything: no more text, no timeout, no backend."""
        sink, work, timeout = self.sink, self.work, self.timeout
        self.sink = self.work = self.timeout = None
        if sink is not None:
            sink.close()
        if timeout is not None and timeout.active():
            timeout.cancel()
        if work is not None:
            work.cancel()


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
        self._clock = clock
        self._store = store
        self._agents = agents
        self._sessions = sessions
        self._limits = limits
        self._metrics = metrics
        self.epoch = entropy.uuid4()
        """Distinguishes the logs of this process from those of another."""
        self.lanes = Lanes(limits.lane_depth)
        self.window = IdempotencyWindow(
            maximum=limits.idempotency_max, ttl_ms=int(limits.idempotency_ttl_s * 1000)
        )
        self._drives: dict[str, _Drive] = {}
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

    async def start(self, turn: Turn) -> Started:
        """Accept a run and start it as soon as its session is free.

        Raises InvalidRequest where the key was used for other content, and Unavailable where too many
        runs wait or the store did not take it; the key is then free again.
        """
        run_id = turn.request.run_id
        now_ms = self._clock.now_ms()
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
        try:
            session, message = await self._store.accept_turn(
                run.record(),
                self._sessions.opening(turn.request),
                turn.message if turn.persist else None,
            )
        except VersionConflict:
            return await self._known(run, turn)
        except StoreError as error:
            self._log.failure("run {run} was not stored", run=run_id)
            self._end_unstored(run, f"the session could not be opened: {error}")
            raise Unavailable("the run could not be stored; try again", retryable=True) from error
        run.session_id = session.session_id
        self._sessions.accepted(session, message, run)
        self._accepted(run)
        return Started(
            run_id,
            fresh=True,
            message_seq=message.seq if message else None,
            accepted_at_ms=run.accepted_at_ms,
        )

    def abort(self, run_id: str, stop_reason: str) -> bool:
        """End a run now; return whether there was one to end."""
        drive = self._drives.get(run_id)
        if drive is None or drive.run.state.terminal:
            return False
        if drive.accepted:
            self._finish(drive, RunState.ABORTED, stop_reason=stop_reason)
        else:
            drive.doomed = stop_reason
        return True

    def abort_session(self, session_key: str, stop_reason: str) -> list[str]:
        """End all runs of a session, the waiting ones first; return their ids."""
        waiting_first = reversed(self.lanes.runs(session_key))
        return [run_id for run_id in waiting_first if self.abort(run_id, stop_reason)]

    def wait(self, run_id: str, timeout_s: float) -> Deferred[RunOutcome | None]:
        """Return how a run ended, as soon as it has; None after ``timeout_s``."""
        claim = self.window.claims.get(run_id)
        done: Deferred[RunOutcome | None] = Deferred()
        if claim is not None and claim.outcome is not None:
            done.callback(claim.outcome)
            return done
        run = self.get(run_id)
        if run is None and run_id not in self._awaited and len(self._awaited) >= MAX_AWAITED:
            raise Unavailable("too many runs are waited for", retryable=True)
        waiters = run.waiters if run is not None else self._awaited.setdefault(run_id, [])

        def ended(outcome: RunOutcome) -> None:
            if not done.called:
                done.callback(outcome)

        def forget(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            if ended in waiters:
                waiters.remove(ended)
            if not self._awaited.get(run_id, True):
                del self._awaited[run_id]
            return result

        timer = self._clock.callLater(timeout_s, lambda: done.callback(None))
        waiters.append(ended)
        done.addBoth(forget)
        return done

    async def recover(self) -> int:
        """End the runs that a crash left open; return how many there were."""
        open_runs: tuple[RunRecord, ...] = await self._store.open_runs()
        for record in open_runs:
            await self._store.finish_turn(TurnEnd(run=_interrupted(record, self._clock.now_ms())))
        if open_runs:
            self._log.warn("{count} runs were open after a crash; ended", count=len(open_runs))
        return len(open_runs)

    async def stop(self) -> None:
        """End every run, and wait until the ends are stored."""
        for run_id in list(self._drives):
            self.abort(run_id, "shutdown")
        while self._drives:
            waiting = next(iter(self._drives.values())).run
            stored: Deferred[None] = Deferred()
            waiting.waiters.append(lambda _, stored=stored: stored.callback(None))  # type: ignore[misc]
            await stored

    def _enter(self, turn: Turn, now_ms: int) -> Run:
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
        self._drives[run.run_id] = _Drive(run)
        self._metrics.runs_active(len(self._drives))
        return run

    async def _known(self, run: Run, turn: Turn) -> Started:
        """Answer for a run that the store knows from before: a repeat after a restart, or a conflict."""
        self._forget(run)
        self.window.release(run.run_id)
        record: RunRecord | None = await self._store.get_run(run.run_id)
        if record is None or record.fingerprint != turn.fingerprint:
            raise _conflict()
        return Started(
            run.run_id,
            fresh=False,
            accepted_at_ms=record.accepted_at_ms,
            outcome=outcome_of(record),
        )

    def _accepted(self, run: Run) -> None:
        drive = self._drives[run.run_id]
        drive.accepted = True
        if drive.doomed is not None:
            self._finish(drive, RunState.ABORTED, stop_reason=drive.doomed)
        elif self.lanes.runs(run.session_key)[0] == run.run_id:
            self._launch(run.run_id)

    def _launch(self, run_id: str) -> None:
        drive = self._drives[run_id]
        run = drive.run
        self._dispatch(run.start(self._clock.now_ms()))
        agent = self._agents.get(run.request.agent_id)
        if agent is None:
            error = f'Agent "{run.request.agent_id}" no longer exists in configuration'
            self._finish(drive, RunState.FAILED, error=error)
            return
        timeout_s = agent.timeout_s if run.request.timeout_s is None else run.request.timeout_s
        if timeout_s > 0:
            drive.timeout = self._clock.callLater(timeout_s, self.abort, run_id, "timeout")
        drive.sink = Sink(
            run,
            clock=self._clock,
            store=self._store,
            interval_s=self._limits.delta_interval_ms / 1000,
            emit=self._dispatch,
            overflow=lambda text: self._finish(drive, RunState.FAILED, error=text),
        )
        request = msgspec.structs.replace(run.request, session_id=run.session_id)
        work = drive.work = maybeDeferred(agent.backend.start, request, drive.sink)
        work.addCallbacks(self._succeeded, self._failed, (drive,), {}, (drive,), {})
        work.addErrback(lambda failure: self._log.failure("run handling", failure=failure))

    def _succeeded(self, result: RunResult, drive: _Drive) -> None:
        self._finish(
            drive,
            RunState.DONE,
            stop_reason=result.stop_reason,
            usage=result.usage,
            provider=result.provider,
            model=result.model,
        )

    def _failed(self, failure: Failure, drive: _Drive) -> None:
        if drive.run.state.terminal:
            failure.trap(CancelledError, BackendError)
            return
        error = failure.value
        if isinstance(error, BackendError):
            self._finish(
                drive,
                RunState.FAILED,
                error=error.message,
                error_kind=error.kind,
                error_detail=dict(error.detail) if error.detail else None,
            )
        elif isinstance(error, CancelledError):
            self._finish(drive, RunState.ABORTED, stop_reason="aborted")
        else:
            self._log.failure(
                "run {run}: its backend failed", failure=failure, run=drive.run.run_id
            )
            self._finish(drive, RunState.FAILED, error="the agent failed (see the gateway's log)")

    def _finish(self, drive: _Drive, state: RunState, **how: Any) -> None:
        """End a run: every path leads here, and the first one counts."""
        run, now_ms = drive.run, self._clock.now_ms()
        try:
            outputs = run.finish(state, now_ms, **how)
        except EncodeFailed as error:
            self._log.error(
                "run {run}: its result has no JSON form: {error}", run=run.run_id, error=error
            )
            text = "the agent's result could not be encoded"
            kind = BackendErrorKind.UNKNOWN
            outputs = run.finish(RunState.FAILED, now_ms, error=text, error_kind=kind)
        if not outputs:
            return
        drive.release()
        outcome = outputs[-1].outcome
        assert outcome is not None
        end = TurnEnd(
            run=run.record(outcome),
            messages=self._sessions.answer_of(run, outcome),
            events=tuple(output.record() for output in outputs),
            input_tokens=outcome.usage.input_tokens if outcome.usage else 0,
            output_tokens=outcome.usage.output_tokens if outcome.usage else 0,
        )
        self._store_then(end, lambda messages: self._announce(run, outputs, outcome, messages))

    def _store_then(self, end: TurnEnd, announce: Callable[[tuple[Message, ...]], None]) -> None:
        """Store an end, then announce it; do not wait longer than STORE_PATIENCE_S for the store."""
        said = False

        def once(messages: tuple[Message, ...]) -> None:
            nonlocal said
            if not said:
                said = True
                if patience.active():
                    patience.cancel()
                announce(messages)

        patience = self._clock.callLater(STORE_PATIENCE_S, once, ())
        stored = self._store.finish_turn(end)

        def failed(failure: Failure) -> None:
            self._log.failure(
                "run {run}: its end was not stored", failure=failure, run=end.run.run_id
            )
            once(())

        stored.addCallbacks(once, failed)
        stored.addErrback(
            lambda failure: self._log.failure("announcing a run's end", failure=failure)
        )

    def _announce(
        self,
        run: Run,
        outputs: list[RunOutput],
        outcome: RunOutcome,
        messages: tuple[Message, ...],
    ) -> None:
        for output in outputs:
            self._dispatch(output)
        self._metrics.run_ended(outcome.state.value)
        self._log.info(
            "run ended run={run} session={session} agent={agent} state={state}",
            run=run.run_id,
            session=run.session_key,
            agent=run.request.agent_id,
            state=outcome.state.value,
            durationMs=outcome.ended_at_ms - run.accepted_at_ms,
        )
        self.window.settle(run.run_id, outcome, self._clock.now_ms())
        self._sessions.ended(run, outcome, messages)
        waiters, run.waiters = run.waiters, []
        self._forget(run)
        for waiter in waiters:
            try:
                waiter(outcome)
            except Exception:
                self._log.failure("a waiter of run {run} failed", run=run.run_id)

    def _end_unstored(self, run: Run, error: str) -> None:
        """End a run that never reached the store, so that who watched it sees an end."""
        for output in run.finish(RunState.FAILED, self._clock.now_ms(), error=error):
            self._dispatch(output)
        self.window.release(run.run_id)
        self._forget(run)

    def _forget(self, run: Run) -> None:
        self._drives.pop(run.run_id, None)
        self._metrics.runs_active(len(self._drives))
        following = self.lanes.leave(run.session_key, run.run_id)
        if following is not None and self._drives[following].accepted:
            self._launch(following)

    def _dispatch(self, output: RunOutput) -> None:
        for listener in self._listeners:
            try:
                listener(output)
            except Exception:
                self._metrics.listener_failed()
                self._log.failure("a listener failed on run {run}", run=output.run.run_id)


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
