"""What moves one run from its acceptance to its one end.

A run that had to wait is noted in the store as running before its backend is called, so that after a crash
nothing is run twice: what the store calls accepted has not been started. While the store does not take the
note the run waits, as it was accepted and has to be kept; an abort or its time to live ends that.

Every path ends in :meth:`Drive.finish`: the backend returned, raised before or after it started, hung
until the timeout, was aborted, or gave what can't be encoded. The end is stored, then announced; the
announcement waits for the store at most :data:`STORE_PATIENCE_S`, so that the end always arrives.

Neither a backend that ignores its cancellation nor a store that never answers keeps a run alive: both
hold nothing but a :class:`gateway.app.deferreds.Link`, which the end of the run empties.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.app.agents import Agent
from gateway.app.approvals import Approvals
from gateway.app.deferreds import Link, let_go
from gateway.app.ends import Ends
from gateway.app.question import Question
from gateway.app.runlog import RunLog
from gateway.app.sessions import Sessions
from gateway.app.sink import Sink
from gateway.core.lanes import Lanes
from gateway.core.run import EXPIRED, EXPIRED_TEXT, INTERRUPTED, Run, RunOutcome, RunOutput
from gateway.errors import BackendError, VersionConflict
from gateway.interfaces import IClock, IStore
from gateway.model import Message, RunRecord, RunResult, RunState, TurnEnd, Usage

STORE_PATIENCE_S = 1.0
"""How long the end of a run waits for the store before it is announced."""

NOTE_PAUSE_S = 1.0
"""When the store is asked again to note that a run starts."""

MAX_TOKENS = 2**53
"""The largest whole number that every reader of JSON knows exactly."""

AGENT_FAILED = "the agent failed (see the gateway's log)"
NOT_OURS = "the run was ended or taken by another process"
UNENCODABLE = "the agent's result could not be encoded"

# Of the module, not of the class: a Logger of the class would put each drive into its log events.
_log = Logger()


class Host(Protocol):
    """What a drive needs of the runs it belongs to."""

    clock: IClock
    store: IStore
    sessions: Sessions
    approvals: Approvals
    lanes: Lanes
    log: RunLog
    ends: Ends
    delta_interval_s: float
    end_delay_s: float

    def dispatch(self, output: RunOutput) -> None:
        """Hand an output to the listeners."""

    def go_on(self, session_key: str) -> None:
        """Let the first run of a session go."""

    def ended(self, run: Run, outcome: RunOutcome, messages: tuple[Message, ...]) -> None:
        """The end of a run was announced: let go of it."""


class Drive:
    """One run, its backend, its timeout."""

    def __init__(
        self,
        run: Run,
        host: Host,
        *,
        noted: bool,
        expires_at: float,
        stored_epoch: str | None = None,
        rerun: bool = False,
    ) -> None:
        """Make the drive of a run.

        :param noted: whether the store has it as running, or will when it has it.
        :param expires_at: until when it may start, on the clock that never goes back.
        :param stored_epoch: what the store has as its epoch, where that is another than its own.
        :param rerun: whether it had started before, and is not to be run a third time.
        """
        self.run = run
        self.accepted = False
        """Whether the store has it; an abort before that waits for it."""
        self.noted = noted
        self._expires_at = expires_at
        self.question = Question(host.sessions, run, stored=stored_epoch is not None and not rerun)
        self._stored_epoch = stored_epoch or run.epoch
        """The epoch that its log has in the store."""
        self._moved_from: str | None = None
        self._rerun = rerun
        self._begun = False
        self._waits_for_store = False
        self._host = host
        self._accepted_at = self._began_at = host.clock.seconds()
        self._doomed: str | None = None
        self._sink: Sink | None = None
        self._work: Deferred[RunResult] | None = None
        self._link: Link | None = None
        self._timeout: IDelayedCall | None = None

    @property
    def waiting(self) -> bool:
        """Whether it waits for its turn in the session."""
        return self.accepted and not self._begun and self.run.state is RunState.ACCEPTED

    @property
    def left(self) -> bool:
        """Whether a stop leaves it in the store, for the next start: it waits, or is not taken up yet."""
        return self.waiting or (not self.accepted and self._stored_epoch != self.run.epoch)

    @property
    def busy_ms(self) -> int:
        """How long it has gone, or waited for the store if it does not go yet."""
        return round((self._host.clock.seconds() - self._began_at) * 1000)

    def go_on_after(self, seq: int) -> None:
        """Go on with the log that an earlier process has stored up to an event, instead of another one."""
        self.run.go_on_after(seq)
        if self._stored_epoch != self.run.epoch:
            self._moved_from = self._stored_epoch

    def accept(self) -> None:
        """The store has the run: from now on it can go, or end as an abort meanwhile asked for."""
        self.accepted = True
        self._accepted_at = self._host.clock.seconds()
        if self._doomed is not None:
            self.finish(RunState.ABORTED, stop_reason=self._doomed)

    def abort(self, stop_reason: str) -> None:
        """End the run, as soon as the store has it."""
        if self.accepted:
            self.finish(RunState.ABORTED, stop_reason=stop_reason)
        elif self._doomed is None:
            self._doomed = stop_reason

    def begin(self, agent: Agent | None) -> None:
        """Its turn has come: start it, as soon as the store knows of that."""
        self._begun = True
        self._stop_timeout()
        if self.noted:
            self.launch(agent)
            return
        kept = self._host.ends.before(self.run.session_key)
        if kept is None:
            self._note(agent)
        else:
            link = self._link = Link(lambda _: self._note(agent))
            kept.addCallback(link)

    def _note(self, agent: Agent | None) -> None:
        run, host = self.run, self._host
        if self._expire():
            return
        epochs = (self._stored_epoch, run.epoch)
        values = {
            "epoch": run.epoch,
            "state": RunState.RUNNING,
            "started_at_ms": host.clock.now_ms(),
        }
        if agent is None or not agent.reruns or self._rerun:
            values["request_json"] = None  # this was the last time that it is run

        def noted(current: RunRecord | None) -> RunRecord | None:
            if current is None or current.epoch not in epochs:
                return None
            return msgspec.structs.replace(current, **values)

        link = self._link = Link(lambda result: self._noted(result, agent))
        asked = self.question.look_up()  # of a run that is aborted meanwhile the note is refused
        asked.addCallback(lambda _: host.store.update_run(run.run_id, noted)).addBoth(link)

    def _noted(self, result: RunRecord | Failure | None, agent: Agent | None) -> None:
        """The store has noted that the run starts, or has not."""
        self._link = None
        run = self.run
        if isinstance(result, Failure) and not result.check(VersionConflict):
            if not self._waits_for_store:
                self._waits_for_store = True
                why = result.getErrorMessage()
                _log.warn("run {run} waits for the store: {error}", run=run.run_id, error=why)
            # Until then it waits as before: a stop leaves it to the next start.
            self._begun = False
            host = self._host
            self._timeout = host.clock.callLater(NOTE_PAUSE_S, host.go_on, run.session_key)
        elif isinstance(result, RunRecord) and result.epoch == run.epoch:
            self._stored_epoch = run.epoch
            if not self._expire():
                self.launch(agent)
        else:
            # Ended, gone, or taken by somebody else: whatever it is, this is not the one to run it.
            self.finish(RunState.FAILED, stop_reason=INTERRUPTED, error=NOT_OURS)

    def _expire(self) -> bool:
        """End the run if its time to start is over."""
        if self._host.clock.seconds() < self._expires_at:
            return False
        self.finish(RunState.FAILED, stop_reason=EXPIRED, error=EXPIRED_TEXT)
        return True

    def launch(self, agent: Agent | None) -> None:
        """Give the run to its agent."""
        run, host = self.run, self._host
        self._began_at = host.clock.seconds()
        self.question.tell()
        host.dispatch(run.start(host.clock.now_ms()))
        if run.state.terminal:
            return  # a listener ended it
        if agent is None:
            error = f'Agent "{run.request.agent_id}" no longer exists in configuration'
            self.finish(RunState.FAILED, error=error)
            return
        timeout_s = agent.timeout_s if run.request.timeout_s is None else run.request.timeout_s
        if timeout_s > 0:
            self._timeout = host.clock.callLater(timeout_s, self.abort, "timeout")
        sink = self._sink = self._make_sink()
        request = msgspec.structs.replace(run.request, session_id=run.session_id)
        link = self._link = Link(self._done)
        work = maybeDeferred(agent.backend.start, request, sink)
        if run.state.terminal:
            let_go(work, run.run_id)  # what it said before it returned ended the run
        else:
            self._work = work
        work.addBoth(link)

    def _make_sink(self) -> Sink:
        run, host = self.run, self._host
        lanes, key = host.lanes, run.session_key
        return Sink(
            run,
            clock=host.clock,
            store=host.store,
            interval_s=host.delta_interval_s,
            emit=host.dispatch,
            overflow=lambda text: self.finish(RunState.FAILED, error=text),
            unfinished=lambda: lanes.runs(key),
            approvals=host.approvals,
        )

    def finish(self, state: RunState, **how: Any) -> None:
        """End the run: the first call counts."""
        run, now_ms = self.run, self._host.clock.now_ms()
        try:
            outputs = run.finish(state, now_ms, **how)
        except Exception as error:
            _log.error(
                "run {run}: its result has no JSON form: {error}", run=run.run_id, error=error
            )
            outputs = run.finish(RunState.FAILED, now_ms, error=UNENCODABLE)
        if not outputs:
            return
        self._release()
        self.question.look_up()
        outcome = outputs[-1].outcome
        assert outcome is not None
        usage = outcome.usage
        end = TurnEnd(
            run=run.record(outcome),
            messages=self._host.sessions.answer_of(run, outcome),
            events=self._host.log.end(run, outputs),
            input_tokens=usage.input_tokens if usage else 0,
            output_tokens=usage.output_tokens if usage else 0,
            moved_from=self._moved_from,
        )
        self._store(end, Link(lambda messages: self._announce(outputs, outcome, messages)))

    def _release(self) -> None:
        """Let go of everything: no more text, no timeout, no backend."""
        sink, work, link = self._sink, self._work, self._link
        self._sink = self._work = self._link = None
        if link is not None:
            link.cut()
        if sink is not None:
            sink.close()  # it answers what the backend still asks, and so may end its work
        self._stop_timeout()
        if work is not None:
            let_go(work, self.run.run_id)

    def _stop_timeout(self) -> None:
        timeout, self._timeout = self._timeout, None
        if timeout is not None and timeout.active():
            timeout.cancel()

    def _done(self, result: RunResult | Failure) -> None:
        """The backend is done, one way or the other."""
        self._work = None
        if isinstance(result, Failure):
            self._failed(result)
        elif isinstance(result, RunResult) and _countable(result.usage):
            self.finish(
                RunState.DONE,
                stop_reason=result.stop_reason,
                usage=result.usage,
                provider=result.provider,
                model=result.model,
            )
        else:
            _log.error(
                "run {run}: its backend gave {result!r:.200}", run=self.run.run_id, result=result
            )
            self.finish(RunState.FAILED, error=AGENT_FAILED)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, BackendError):
            self.finish(
                RunState.FAILED,
                error=error.message,
                error_kind=error.kind,
                error_detail=error.detail,
            )
        elif isinstance(error, CancelledError):
            self.finish(RunState.ABORTED, stop_reason="aborted")
        else:
            _log.failure("run {run}: its backend failed", failure=failure, run=self.run.run_id)
            self.finish(RunState.FAILED, error=AGENT_FAILED)

    def _store(self, end: TurnEnd, announce: Link) -> None:
        """Store the end, then announce it; whoever waits is told after a second in any case."""
        host, run = self._host, end.run
        sessions, patience = host.sessions, None
        run_id, key, agent_id = run.run_id, run.session_key, run.agent_id
        not_before = self._accepted_at + host.end_delay_s

        def stored(messages: tuple[Message, ...]) -> None:
            host.ends.stored(run_id)
            tell(messages)

        def tell(messages: tuple[Message, ...]) -> None:
            if announce:
                if patience is not None:
                    patience.cancel()
                early = not_before - host.clock.seconds()
                if early > 0:
                    # A real client waits for ever if the end comes in one read with the answer.
                    host.clock.callLater(early, announce, messages)
                else:
                    announce(messages)
            else:
                sessions.announce_messages(key, agent_id, messages)

        def failed(failure: Failure) -> None:
            _log.failure("run {run}: its end was not stored", failure=failure, run=run_id)
            host.ends.keep(end)
            tell(())

        def give_up_waiting() -> None:
            host.ends.hold(end)
            announce(())

        storing: Deferred[Any] = maybeDeferred(host.store.finish_turn, end)
        storing.addCallbacks(stored, failed)
        storing.addErrback(lambda failure: _log.failure("announcing an end", failure=failure))
        if not storing.called:
            patience = host.clock.callLater(STORE_PATIENCE_S, give_up_waiting)

    def _announce(
        self, outputs: list[RunOutput], outcome: RunOutcome, messages: tuple[Message, ...]
    ) -> None:
        run = self.run
        self.question.tell()
        for output in outputs:
            self._host.dispatch(output)
        ours = outcome.state is not RunState.DONE and outcome.stop_reason
        why = {"stopReason": outcome.stop_reason} if ours else {}  # else it is the agent's word
        _log.info(
            "run ended run={run} session={session} agent={agent} state={state}",
            run=run.run_id,
            session=run.session_key,
            agent=run.request.agent_id,
            state=outcome.state.value,
            durationMs=round((self._host.clock.seconds() - self._accepted_at) * 1000),
            **why,
        )
        self._host.ended(run, outcome, messages)


def _countable(usage: Any) -> bool:
    """Whether numbers of tokens are such as can be added up and stored; other types are told later."""
    if not isinstance(usage, Usage):
        return True
    counts = (usage.input_tokens, usage.output_tokens)
    return all(not isinstance(count, int) or 0 <= count <= MAX_TOKENS for count in counts)
