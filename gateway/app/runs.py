"""Runs: accepted once, driven one at a time per session, waited for.

A run is accepted when the store holds it and its message; only then is the request answered. The same
idempotency key gives the same run, while it goes, after it ended and after a restart. What happens
between acceptance and end is in :mod:`gateway.app.drive`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.logger import Logger

from gateway.app.agents import AgentDirectory
from gateway.app.deferreds import shielded
from gateway.app.drive import STORE_PATIENCE_S, Drive
from gateway.app.recovery import interrupt, outcome_of, recover
from gateway.app.runlog import RunLog
from gateway.app.sessions import Sessions
from gateway.app.turn import Started, Turn
from gateway.config import LimitsConfig
from gateway.core.idempotency import Answer, IdempotencyWindow
from gateway.core.lanes import LaneFull, Lanes
from gateway.core.registry import RegistryFull
from gateway.core.run import Run, RunOutcome, RunOutput, Waiter
from gateway.errors import InvalidRequest, StoreError, Unavailable, VersionConflict
from gateway.interfaces import IClock, IEntropy, IStore, RunListener
from gateway.metrics import Metrics
from gateway.model import Message, RunRecord, RunState

END_DELAY_S = 0.1
"""The end of a run is not announced sooner than this after it was accepted: the newer terminal UI waits
for ever if the end of a run reaches it in one read with the answer to the request that started it."""

STOP_PATIENCE_S = 2.0
"""How long the ends of all runs are waited for when the gateway stops."""

MAX_AWAITED = 1_000
"""Runs that may be waited for before they exist."""


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
        self.end_delay_s = END_DELAY_S
        self._metrics = metrics
        self.epoch = entropy.uuid4()
        """Distinguishes the logs of this process from those of another."""
        self.lanes = Lanes(limits.lane_depth)
        self.window = IdempotencyWindow(
            maximum=limits.idempotency_max, ttl_ms=int(limits.idempotency_ttl_s * 1000)
        )
        self.log = RunLog(store, clock)
        self._drives: dict[str, Drive] = {}
        self._listeners: list[RunListener] = [self.log]
        self._awaited: dict[str, list[Waiter]] = {}
        self._stopping = False

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

    @property
    def live(self) -> list[Run]:
        """Every run that is not over, the one that came first first."""
        return [drive.run for drive in self._drives.values()]

    def going_in(self, session_key: str) -> list[Run]:
        """Return the runs of a session, the one that goes first."""
        found = (self.get(run_id) for run_id in self.lanes.runs(session_key))
        return [run for run in found if run is not None]

    # -- for those who ask

    def start(self, turn: Turn) -> Deferred[Started]:
        """Accept a run and start it as soon as its session is free.

        Who cancels the Deferred only stops waiting: what was begun is carried through. Raises
        InvalidRequest where the key was used for other content, and Unavailable where too many runs
        wait, the store did not take it or the gateway stops; the key is then free again.
        """
        work = Deferred.fromCoroutine(self._start(turn))
        started = shielded(work)
        # Only now: whoever asked is answered before the first event of the run.
        work.addCallback(lambda _: self._go(turn.request.session_key))
        return started

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

    async def outcome(self, run_id: str, timeout_s: float) -> RunOutcome | None:
        """Return how a run ended, also one from before a restart; None if it does not in ``timeout_s``.

        A store that does not answer costs at most a second more. Raises Unavailable.
        """
        if run_id not in self.window.claims:
            reading: Deferred[RunRecord | None] = self.store.get_run(run_id)
            try:
                record = await reading.addTimeout(STORE_PATIENCE_S, self.clock)
            except (StoreError, TimeoutError) as error:
                self._log.warn("run {run} was not looked up: {error!r}", run=run_id, error=error)
                record = None
            outcome = None if record is None else outcome_of(record)
            if outcome is not None:
                return outcome
        return await self.wait(run_id, timeout_s)

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
            waiters.remove(fire)
            if not waiters and self._awaited.get(run_id) is waiters:
                del self._awaited[run_id]
            return result

        timer = self.clock.callLater(timeout_s, fire, None)
        waiters.append(fire)
        done.addBoth(forget)
        return done

    # -- start and stop

    async def recover(self) -> int:
        """End the runs that a crash left open; return how many there were. Raises StoreError."""
        return await recover(self.store, self.clock.now_ms(), own_epoch=self.epoch)

    async def stop(self) -> None:
        """Take no more runs, end every one, and wait until the ends are stored."""
        self._stopping = True
        for run_id in list(self._drives):
            self.abort(run_id, "shutdown")
        await gatherResults([self.wait(run_id, STOP_PATIENCE_S) for run_id in self._drives])
        for run_id in self._drives:
            self._log.error("run {run} did not end", run=run_id)

    # -- for the drives

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
        self._leave(run)
        self._announce(self.sessions.ended, run, outcome, messages)
        self._tell(run.waiters, outcome)
        self._go(run.session_key)

    # -- inside

    async def _start(self, turn: Turn) -> Started:
        run_id = turn.request.run_id
        now_ms = self.clock.now_ms()
        if self._stopping:
            raise _busy("the gateway is stopping")
        try:
            # What goes has its key in the window, so the window bounds the runs as well.
            answer, claim = self.window.claim(run_id, turn.fingerprint, run_id, now_ms)
        except RegistryFull as error:
            raise _busy("too many runs") from error
        if answer is Answer.CONFLICT:
            raise _conflict()
        if answer is Answer.SAME:
            run = self.get(run_id)
            accepted_at_ms = now_ms if run is None else run.accepted_at_ms
            return Started(run_id, False, accepted_at_ms=accepted_at_ms, outcome=claim.outcome)
        try:
            if turn.prepare is not None:
                await self._prepare(turn, turn.prepare)
            run = self._enter(turn, now_ms)
        except Exception:
            self.window.release(run_id)
            raise
        return await self._accept(run, turn)

    async def _prepare(self, turn: Turn, prepare: Callable[[], Awaitable[None]]) -> None:
        """Do what comes before a run, unless there was a run; repeats of the request wait meanwhile."""
        request = turn.request
        try:
            if await self.store.get_run(request.run_id) is None:
                await prepare()
        except Exception as error:
            outcome = RunOutcome(
                run_id=request.run_id,
                session_key=request.session_key,
                session_id=request.session_id,
                state=RunState.FAILED,
                started_at_ms=None,
                ended_at_ms=self.clock.now_ms(),
                error=str(error),
            )
            self._tell(self._awaited.get(request.run_id, ()), outcome)
            raise

    def _enter(self, turn: Turn, now_ms: int) -> Run:
        """Make the run and put it in its session's lane. Raises Unavailable."""
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
        run.waiters = self._awaited.pop(run.run_id, [])
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
            raise _not_stored() from error
        except Exception:
            self._end_unstored(run, "the session could not be opened")
            raise
        run.session_id = session.session_id
        self._announce(self.sessions.accepted, session, message, run)
        self._drives[run.run_id].accept()
        return Started(
            run.run_id,
            fresh=True,
            message_seq=message.seq if message else None,
            accepted_at_ms=run.accepted_at_ms,
        )

    async def _known(self, run: Run, turn: Turn) -> Started:
        """Answer for a run that the store knows from before: a repeat after a restart, or a conflict.

        ``run`` never was; who waits for its id is told how the stored one ended.
        """
        run_id = run.run_id
        try:
            record: RunRecord | None = await self.store.get_run(run_id)
            if record is None:
                raise StoreError("it is gone again")
            outcome = outcome_of(record)
            if outcome is None:
                # Nobody here drives it: its end was not stored.
                outcome = await interrupt(self.store, record, self.clock.now_ms())
        except StoreError as error:
            self._log.failure("run {run} was not looked up", run=run_id)
            failed = run.finish(RunState.FAILED, self.clock.now_ms(), error=str(error))
            self._drop(run, failed[-1].outcome)
            raise _not_stored() from error
        self._drop(run, outcome)
        self.window.claim(run_id, record.fingerprint, run_id, self.clock.now_ms())
        self.window.settle(run_id, outcome, self.clock.now_ms())
        if record.fingerprint != turn.fingerprint:
            raise _conflict()
        return Started(run_id, False, accepted_at_ms=record.accepted_at_ms, outcome=outcome)

    def _end_unstored(self, run: Run, error: str) -> None:
        """End a run that never reached the store, so that who watched it sees an end."""
        outputs = run.finish(RunState.FAILED, self.clock.now_ms(), error=error)
        for output in outputs:
            self.dispatch(output)
        self._metrics.run_ended(RunState.FAILED.value)
        self._drop(run, outputs[-1].outcome)

    def _drop(self, run: Run, outcome: RunOutcome | None) -> None:
        """Let go of a run that was never accepted; its key is free again."""
        assert outcome is not None
        self.window.release(run.run_id)
        self._leave(run)
        self._tell(run.waiters, outcome)
        self._go(run.session_key)

    def _leave(self, run: Run) -> None:
        del self._drives[run.run_id]
        self._metrics.runs_active(len(self._drives))
        self.lanes.leave(run.session_key, run.run_id)

    def _go(self, session_key: str) -> None:
        """Let the first run of a session go, if it waits for nothing but its turn."""
        first = self.lanes.runs(session_key)[:1]
        drive = self._drives[first[0]] if first else None
        if drive is not None and drive.waiting and not self._stopping:
            drive.launch(self._agents.get(drive.run.request.agent_id))

    def _tell(self, waiters: Sequence[Waiter], outcome: RunOutcome) -> None:
        """Tell those who wait for a run. They are Deferreds: they raise nothing, and leave the list."""
        for waiter in tuple(waiters):
            waiter(outcome)

    def _announce(self, announce: Callable[..., None], *args: Any) -> None:
        """Tell those who follow sessions; what goes wrong with that must not touch the run."""
        try:
            announce(*args)
        except Exception:
            self._log.failure("a change of a session was not announced")

    def _waiters_of(self, run_id: str) -> list[Waiter]:
        run = self.get(run_id)
        if run is not None:
            return run.waiters
        if run_id not in self._awaited and len(self._awaited) >= MAX_AWAITED:
            raise Unavailable("too many runs are waited for", retryable=True)
        return self._awaited.setdefault(run_id, [])


def _conflict() -> InvalidRequest:
    return InvalidRequest(
        "idempotency key was used for another request",
        details={"reason": "chat-request-conflict"},
    )


def _not_stored() -> Unavailable:
    return Unavailable("the run could not be stored; try again", retryable=True)


def _busy(text: str) -> Unavailable:
    return Unavailable(text, retryable=True, retry_after_ms=1000)
