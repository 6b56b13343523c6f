"""What moves one run from its acceptance to its one end.

A run that had to wait is noted in the store as running before its backend is called (see
:mod:`gateway.app.noting`).

Every path ends in :meth:`Drive.finish`: the backend returned, raised before or after it started, hung
until the timeout, was aborted, or gave what can't be encoded. The end is stored, then announced (see
:meth:`gateway.app.ends.Ends.store`).

Neither a backend that ignores its cancellation nor a store that never answers keeps a run alive: both
hold nothing but a :class:`gateway.app.deferreds.Link`, which the end of the run empties.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.app.agents import Agent
from gateway.app.bindings import agent_session_of
from gateway.app.deferreds import Link, let_go
from gateway.app.ends import Ends
from gateway.app.noting import Noting
from gateway.app.question import Question
from gateway.app.runlog import RunLog
from gateway.app.runquestions import RunQuestions
from gateway.app.sessions import Sessions
from gateway.app.sink import Sink
from gateway.app.steering import Steering
from gateway.core.batch import collected, launched, prefaced
from gateway.core.lanes import Lanes
from gateway.core.outcome import COLLECTED, error_facts
from gateway.core.run import Run, RunOutcome, RunOutput
from gateway.core.usage import MAX_TOKENS, turn_usage
from gateway.errors import BackendError
from gateway.interfaces import IClock, IStore
from gateway.model import Message, RunRequest, RunResult, RunState, Session, TurnEnd, Usage

AGENT_FAILED = "the agent failed (see the gateway's log)"
UNENCODABLE = "the agent's result could not be encoded"

# Of the module, not of the class: a Logger of the class would put each drive into its log events.
_log = Logger()


class Host(Protocol):
    """What a drive needs of the runs it belongs to."""

    clock: IClock
    store: IStore
    sessions: Sessions
    questions: RunQuestions
    lanes: Lanes
    log: RunLog
    ends: Ends
    delta_interval_s: float
    end_delay_s: float
    preface: Callable[[str], str | None]

    def dispatch(self, output: RunOutput) -> None:
        """Hand an output to the listeners."""

    def go_on(self, session_key: str) -> None:
        """Let the first run of a session go."""

    def companions(self, drive: Drive) -> list[Drive]:
        """Return those whose messages are answered together with the one that begins."""

    def drive(self, run_id: str) -> Drive | None:
        """Return what moves another run."""

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
        self.question = Question(host.sessions, run, stored=stored_epoch is not None and not rerun)
        self._noting = Noting(
            run,
            host,
            self.question,
            stored_epoch=stored_epoch or run.epoch,
            rerun=rerun,
            expires_at=expires_at,
        )
        self.session: Session | None = None
        """The session as it was stored when the run was accepted, or noted as running, until it starts."""
        self.steering: Steering | None = None
        """What gives the messages of other runs to this one, or the message of this one to another."""
        self._companions: list[Drive] = []
        """Those whose messages it answers as well, until it starts."""
        self.taken = list(run.request.collected)
        """The runs whose messages it answers as well."""
        self._moved_from: str | None = None
        self._begun = False
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
    def working(self) -> bool:
        """Whether its backend is at work."""
        return self._work is not None

    @property
    def left(self) -> bool:
        """Whether a stop leaves it in the store, for the next start: it waits, or is not taken up yet."""
        return self.waiting or (not self.accepted and self._noting.stored_epoch != self.run.epoch)

    @property
    def busy_ms(self) -> int:
        """How long it has gone, or waited for the store if it does not go yet."""
        return round((self._host.clock.seconds() - self._began_at) * 1000)

    def go_on_after(self, seq: int) -> None:
        """Go on with the log that an earlier process has stored up to an event, instead of another one."""
        self.run.go_on_after(seq)
        if self._noting.stored_epoch != self.run.epoch:
            self._moved_from = self._noting.stored_epoch

    def accept(self, session: Session | None = None) -> None:
        """The store has the run: from now on it can go, or end as an abort meanwhile asked for.

        :param session: the session as it was stored with the run, for one that goes at once.
        """
        self.accepted = True
        self.session = session
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
        if self.noted:
            self.launch(agent)
        else:
            self._companions = self._host.companions(self)
            others = [each.run.request for each in self._companions]
            self._noting.ask(agent, collected(self.run.request, others), self)

    def wait_again(self) -> None:
        """The store did not take the note that it starts: it waits for its turn as before."""
        self._begun = False
        self._companions = []

    def hand_over(self, run_id: str, stop_reason: str) -> None:
        """Its message is answered by another run: it ends without a turn of its own."""
        other = self._host.drive(run_id)
        assert other is not None
        other.taken.append(self.run.run_id)
        self.question.tell()
        self.finish(RunState.DONE, stop_reason=stop_reason, into=run_id)

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
        request = self._request(agent)
        if run.state.terminal:
            return  # a listener ended it
        sink = self._sink = self._make_sink(agent.kind)
        link = self._link = Link(self._done)
        work = maybeDeferred(agent.backend.start, request, sink)
        if run.state.terminal:
            let_go(work, run.run_id)  # what it said before it returned ended the run
        else:
            self._work = work
        work.addBoth(link)

    def _request(self, agent: Agent) -> RunRequest:
        """Return what the backend is asked, with what was collected; those it came from are over then."""
        run = self.run
        taken = [each for each in self._companions if each.waiting]
        session, self.session, self._companions = self.session, None, []
        request = collected(run.request, [each.run.request for each in taken])
        request = prefaced(request, self._host.preface(run.session_key))
        for each in taken:
            each.hand_over(run.run_id, COLLECTED)
        return launched(
            request,
            session,
            agent.model.provider,
            session_id=run.session_id,
            agent_session=agent_session_of(session, agent.kind),
        )

    def _make_sink(self, kind: str) -> Sink:
        run, host = self.run, self._host
        lanes, key, taken = host.lanes, run.session_key, self.taken
        return Sink(
            run,
            clock=host.clock,
            store=host.store,
            interval_s=host.delta_interval_s,
            emit=host.dispatch,
            overflow=lambda text: self.finish(RunState.FAILED, error=text),
            unfinished=lambda: (*lanes.runs(key), *taken),
            kind=kind,
            summaries=host.sessions.summaries,
            questions=host.questions,
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
        end = TurnEnd(
            run=run.record(outcome),
            messages=self._host.sessions.answer_of(run, outcome),
            events=self._host.log.end(run, outputs),
            moved_from=self._moved_from,
            **turn_usage(outcome),
        )
        announce = Link(lambda messages: self._announce(outputs, outcome, messages))
        self._host.ends.store(end, announce, not_before=self._accepted_at + self._host.end_delay_s)

    def _release(self) -> None:
        """Let go of everything: no more text, no timeout, no backend."""
        sink, work, link = self._sink, self._work, self._link
        self._sink = self._work = self._link = None
        if link is not None:
            link.cut()
        if sink is not None:
            sink.close()  # it answers what the backend still asks, and so may end its work
        self._noting.stop()
        self._stop_timeout()
        self._companions = []
        steering, self.steering = self.steering, None
        if steering is not None:
            steering.over(self.run.run_id)
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

    def _announce(
        self, outputs: list[RunOutput], outcome: RunOutcome, messages: tuple[Message, ...]
    ) -> None:
        run = self.run
        self.question.tell()
        for output in outputs:
            self._host.dispatch(output)
        ours = outcome.state is not RunState.DONE and outcome.stop_reason
        why = {"stopReason": outcome.stop_reason} if ours else {}  # else it is the agent's word
        error = error_facts(outcome)
        _log.info(
            "run ended run={run} session={session} agent={agent} state={state}"
            + "".join(f" {name}={{{name}}}" for name in error),
            run=run.run_id,
            session=run.session_key,
            agent=run.request.agent_id,
            state=outcome.state.value,
            durationMs=round((self._host.clock.seconds() - self._accepted_at) * 1000),
            **why,
            **error,
        )
        self._host.ended(run, outcome, messages)


def _countable(usage: Any) -> bool:
    """Whether numbers of tokens are such as can be added up and stored; other types are told later."""
    if not isinstance(usage, Usage):
        return True
    counts = (usage.input_tokens, usage.output_tokens)
    return all(not isinstance(count, int) or 0 <= count <= MAX_TOKENS for count in counts)
