"""What moves one run from its acceptance to its one end.

Every path ends in :meth:`Drive.finish`: the backend returned, raised before or after it started, hung
until the timeout, was aborted, or gave what can't be encoded. The end is stored, then announced; the
announcement waits for the store at most :data:`STORE_PATIENCE_S`, so that the end always arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.app.agents import Agent
from gateway.app.sessions import Sessions
from gateway.app.sink import Sink
from gateway.core.run import EncodeFailed, Run, RunOutcome, RunOutput
from gateway.errors import BackendError
from gateway.interfaces import IClock, IStore
from gateway.model import Message, RunResult, RunState, TurnEnd

STORE_PATIENCE_S = 1.0
"""How long the end of a run waits for the store before it is announced."""


class Host(Protocol):
    """What a drive needs of the runs it belongs to."""

    clock: IClock
    store: IStore
    sessions: Sessions
    delta_interval_s: float

    def dispatch(self, output: RunOutput) -> None:
        """Hand an output to the listeners."""

    def ended(self, run: Run, outcome: RunOutcome, messages: tuple[Message, ...]) -> None:
        """The end of a run was announced: let go of it."""


class Drive:
    """One run, its backend, its timeout."""

    _log = Logger()

    def __init__(self, run: Run, host: Host) -> None:
        self.run = run
        self.accepted = False
        """Whether the store has it; an abort before that waits for it."""
        self._host = host
        self._doomed: str | None = None
        self._sink: Sink | None = None
        self._work: Deferred[RunResult] | None = None
        self._timeout: IDelayedCall | None = None

    def accept(self) -> bool:
        """The store has the run; return whether it may go (it was not aborted meanwhile)."""
        self.accepted = True
        if self._doomed is None:
            return True
        self.finish(RunState.ABORTED, stop_reason=self._doomed)
        return False

    def abort(self, stop_reason: str) -> None:
        """End the run, as soon as the store has it."""
        if self.accepted:
            self.finish(RunState.ABORTED, stop_reason=stop_reason)
        else:
            self._doomed = stop_reason

    def launch(self, agent: Agent | None) -> None:
        """Give the run to its agent."""
        run, host = self.run, self._host
        host.dispatch(run.start(host.clock.now_ms()))
        if agent is None:
            error = f'Agent "{run.request.agent_id}" no longer exists in configuration'
            self.finish(RunState.FAILED, error=error)
            return
        timeout_s = agent.timeout_s if run.request.timeout_s is None else run.request.timeout_s
        if timeout_s > 0:
            self._timeout = host.clock.callLater(timeout_s, self.abort, "timeout")
        sink = self._sink = Sink(
            run,
            clock=host.clock,
            store=host.store,
            interval_s=host.delta_interval_s,
            emit=host.dispatch,
            overflow=lambda text: self.finish(RunState.FAILED, error=text),
        )
        request = msgspec.structs.replace(run.request, session_id=run.session_id)
        work = self._work = maybeDeferred(agent.backend.start, request, sink)
        work.addCallbacks(self._succeeded, self._failed)
        work.addErrback(lambda failure: self._log.failure("ending a run failed", failure=failure))

    def finish(self, state: RunState, **how: Any) -> None:
        """End the run: the first call counts."""
        run, now_ms = self.run, self._host.clock.now_ms()
        try:
            outputs = run.finish(state, now_ms, **how)
        except EncodeFailed as failed:
            self._log.error(
                "run {run}: its result has no JSON form: {error}", run=run.run_id, error=failed
            )
            error = "the agent's result could not be encoded"
            outputs = run.finish(RunState.FAILED, now_ms, error=error)
        if not outputs:
            return
        self._release()
        outcome = outputs[-1].outcome
        assert outcome is not None
        usage = outcome.usage
        end = TurnEnd(
            run=run.record(outcome),
            messages=self._host.sessions.answer_of(run, outcome),
            events=tuple(output.record() for output in outputs),
            input_tokens=usage.input_tokens if usage else 0,
            output_tokens=usage.output_tokens if usage else 0,
        )
        self._store_then(end, lambda messages: self._announce(outputs, outcome, messages))

    def _release(self) -> None:
        """Let go of everything: no more text, no timeout, no backend."""
        sink, work, timeout = self._sink, self._work, self._timeout
        self._sink = self._work = self._timeout = None
        if sink is not None:
            sink.close()
        if timeout is not None and timeout.active():
            timeout.cancel()
        if work is not None:
            work.cancel()

    def _succeeded(self, result: RunResult) -> None:
        self.finish(
            RunState.DONE,
            stop_reason=result.stop_reason,
            usage=result.usage,
            provider=result.provider,
            model=result.model,
        )

    def _failed(self, failure: Failure) -> None:
        error, run_id = failure.value, self.run.run_id
        if isinstance(error, BackendError):
            self.finish(
                RunState.FAILED,
                error=error.message,
                error_kind=error.kind,
                error_detail=dict(error.detail) if error.detail else None,
            )
        elif isinstance(error, CancelledError):
            self.finish(RunState.ABORTED, stop_reason="aborted")
        else:
            self._log.failure("run {run}: its backend failed", failure=failure, run=run_id)
            self.finish(RunState.FAILED, error="the agent failed (see the gateway's log)")

    def _store_then(self, end: TurnEnd, announce: Callable[[tuple[Message, ...]], None]) -> None:
        said = False

        def once(messages: tuple[Message, ...]) -> None:
            nonlocal said
            if not said:
                said = True
                if patience.active():
                    patience.cancel()
                announce(messages)

        def failed(failure: Failure) -> None:
            run_id = end.run.run_id
            self._log.failure("run {run}: its end was not stored", failure=failure, run=run_id)
            once(())

        patience = self._host.clock.callLater(STORE_PATIENCE_S, once, ())
        stored = self._host.store.finish_turn(end)
        stored.addCallbacks(once, failed)
        stored.addErrback(lambda failure: self._log.failure("announcing an end", failure=failure))

    def _announce(
        self, outputs: list[RunOutput], outcome: RunOutcome, messages: tuple[Message, ...]
    ) -> None:
        run = self.run
        for output in outputs:
            self._host.dispatch(output)
        self._log.info(
            "run ended run={run} session={session} agent={agent} state={state}",
            run=run.run_id,
            session=run.session_key,
            agent=run.request.agent_id,
            state=outcome.state.value,
            durationMs=outcome.ended_at_ms - run.accepted_at_ms,
        )
        self._host.ended(run, outcome, messages)
