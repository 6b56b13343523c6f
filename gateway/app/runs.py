"""Runs: accepted once, driven one at a time per session, waited for.

How a run begins is in :mod:`gateway.app.acceptance`, what happens between acceptance and end in
:mod:`gateway.app.drive`, what becomes of runs that outlive their process in :mod:`gateway.app.recovery`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, fail
from twisted.logger import Logger

from gateway.app.acceptance import Acceptance
from gateway.app.agents import AgentDirectory
from gateway.app.coming import Coming
from gateway.app.deferreds import shielded
from gateway.app.drive import Drive
from gateway.app.ends import STORE_PATIENCE_S, Ends, outcome_of
from gateway.app.holds import Hold, Holds
from gateway.app.queueing import Queueing
from gateway.app.recovery import Recovery
from gateway.app.runlog import RunLog
from gateway.app.runquestions import RunQuestions
from gateway.app.sessions import Sessions
from gateway.app.turn import Started, Turn
from gateway.core.idempotency import IdempotencyWindow
from gateway.core.lanes import Lanes
from gateway.core.run import Run, RunOutcome, RunOutput, Waiter
from gateway.errors import GatewayError, StoreError, Unavailable
from gateway.interfaces import IClock, IEntropy, IStore, RunListener
from gateway.limits import LimitsConfig
from gateway.metrics import Metrics
from gateway.model import Message, RunRecord

END_DELAY_S = 0.1
"""The end of a run is not announced sooner than this after it was accepted: the newer terminal UI waits
for ever if the end of a run reaches it in one read with the answer to the request that started it."""

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
        questions: RunQuestions,
        limits: LimitsConfig,
        metrics: Metrics,
    ) -> None:
        self.clock = clock
        self.store = store
        self._agents = agents
        self.sessions = sessions
        self.questions = questions
        self.delta_interval_s = limits.delta_interval_ms / 1000
        self.end_delay_s = END_DELAY_S
        self.metrics = metrics
        self.epoch = entropy.uuid4()
        """Distinguishes the logs of this process from those of another."""
        self.lanes = Lanes(limits.lane_depth)
        self.holds = Holds(self.lanes, self.go_on)
        self.window = IdempotencyWindow(
            maximum=limits.idempotency_max, ttl_s=limits.idempotency_ttl_s
        )
        self.log = RunLog(store, clock)
        self.ends = Ends(
            store=store,
            clock=clock,
            sessions=sessions,
            metrics=metrics,
            settled=self.log.settled,
        )
        self.queued_ttl_s = limits.queued_ttl_s
        self._acceptance = Acceptance(self, agents)
        self._queueing = Queueing(self, agents)
        self.recovery = Recovery(self, agents, ttl_s=limits.queued_ttl_s)
        self._drives: dict[str, Drive] = {}
        self._listeners: list[RunListener] = [self.log]
        self._awaited: dict[str, list[Waiter]] = {}
        self.coming = Coming()
        self._stopping = False
        self.preface: Callable[[str], str | None] = lambda _key: None
        """Returns what is put in front of the next message of a session; asked once for each turn."""

    def __len__(self) -> int:
        return len(self._drives)

    @property
    def stopping(self) -> bool:
        """Whether no more runs are taken."""
        return self._stopping

    def add_listener(self, listener: RunListener) -> None:
        """Call ``listener`` with every output of every run, in order."""
        self._listeners.append(listener)

    def busy(self, session_key: str) -> bool:
        """Whether a run goes or waits in a session."""
        return self.lanes.busy(session_key)

    def get(self, run_id: str) -> Run | None:
        """Return a run that is not over."""
        drive = self.drive(run_id)
        return None if drive is None else drive.run

    def drive(self, run_id: str) -> Drive | None:
        """Return what moves a run that is not over."""
        return self._drives.get(run_id)

    def live(self, run_id: str) -> Run | None:
        """Return a run that is stored and not over: one on its way there may prove to be known already."""
        drive = self.drive(run_id)
        return drive.run if drive is not None and drive.accepted else None

    @property
    def unended(self) -> list[Run]:
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
        work = Deferred.fromCoroutine(self._acceptance.start(turn))
        started = shielded(work)
        # Only now: whoever asked is answered before the first event of the run.
        work.addCallback(self._answered, turn.request.session_key)
        work.addBoth(lambda _: self._acceptance.settled(turn))
        return started

    def abort(self, run_id: str, stop_reason: str) -> bool:
        """End a run now; return whether there was one to end."""
        drive = self._drives.get(run_id)
        if drive is None:
            return self.coming.doom(run_id, stop_reason)
        if drive.run.state.terminal:
            return False
        drive.abort(stop_reason)
        return True

    def abort_session(self, session_key: str, stop_reason: str) -> list[str]:
        """End all runs of a session, the waiting ones first, and what it is held for; return their ids."""
        waiting_first = reversed(self.lanes.runs(session_key))
        ended = [run_id for run_id in waiting_first if self.abort(run_id, stop_reason)]
        return ended + self.holds.stop(session_key)

    async def vacate(self, session_key: str, stop_reason: str) -> bool:
        """End all runs of a session that is to begin anew, or to go; return whether that changed it.

        Ends that the store has not taken yet are stored first, as far as it works: they belong to what
        is over.
        """
        ended = self.abort_session(session_key, stop_reason)
        kept = self.ends.before(session_key)
        if kept is not None:
            await kept
        return bool(ended) or kept is not None

    def stop_session(self, session_key: str, stop_reason: str) -> list[str]:
        """End all runs of a session, those too whose requests are still looked at; return their ids."""
        coming = [run_id for run_id in self.coming.to(session_key) if run_id not in self._drives]
        doomed = [run_id for run_id in coming if self.coming.doom(run_id, stop_reason)]
        return doomed + self.abort_session(session_key, stop_reason)

    def session_of(self, run_id: str) -> str | None:
        """Return the session of a run that is not over, or that is still being asked for."""
        run = self.get(run_id)
        return self.coming.session_of(run_id) if run is None else run.session_key

    def hold(self, session_key: str, hold_id: str) -> Deferred[Hold]:
        """Return a session once no run of it goes; none goes until the hold is released.

        Cancel the Deferred to wait no more. Fails with Unavailable where too many wait, or the gateway
        stops.
        """
        if self._stopping:
            return fail(Unavailable("the gateway is stopping", retryable=True))
        return self.holds.hold(session_key, hold_id)

    async def outcome(self, run_id: str, timeout_s: float) -> RunOutcome | None:
        """Return how a run ended, also one from before a restart; None if it does not in ``timeout_s``.

        A store that does not answer costs at most a second more. Raises Unavailable.
        """
        if run_id not in self.window.claims and run_id not in self.ends:
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
        ended = self.ends.outcome(run_id) if claim is None else claim.outcome
        if ended is not None:
            done.callback(ended)
            return done
        waiters = self._waiters_of(run_id)

        def fire(outcome: RunOutcome | GatewayError | None) -> None:
            if done.called:
                return
            if isinstance(outcome, GatewayError):
                done.errback(outcome)
            else:
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
        """Take up or end the runs that a crash left open; return how many there were. Raises StoreError."""
        return await self.recovery.run()

    @property
    def unfinished(self) -> list[Run]:
        """The runs that go, and those whose end or acceptance is being stored: all that a stop waits for."""
        return [drive.run for drive in self._drives.values() if not drive.left]

    def refuse(self) -> None:
        """Take no more runs, and begin none of those that wait: they stay in the store as they are."""
        self._stopping = True
        self.holds.dismiss(Unavailable("the gateway is stopping", retryable=True))

    def dismiss(self, error: GatewayError) -> None:
        """Tell everybody who waits for a run that this gateway will not end any more."""
        for waiters in [drive.run.waiters for drive in self._drives.values()]:
            self.tell(waiters, error)
        for waiters in list(self._awaited.values()):
            self.tell(waiters, error)

    # -- for the recovery

    def adopt(self, run: Run, *, stored_epoch: str, age_s: float, rerun: bool) -> Drive | None:
        """Take a run of an earlier process into its lane, however full that is; None if it is known.

        :param stored_epoch: the epoch that the store has of it.
        :param age_s: how long ago it was accepted.
        :param rerun: whether it had started before.
        """
        run_id, claims = run.run_id, self.window.claims
        if run_id in claims or run_id in self.ends:
            return None
        self.window.adopt(run_id, run.fingerprint, run_id, self.clock.seconds())
        self.lanes.enter(run.session_key, run_id, anyway=True)
        expires_at = self.clock.seconds() + self.queued_ttl_s - age_s
        how: Any = {"stored_epoch": stored_epoch, "rerun": rerun}
        return self.take_in(Drive(run, self, noted=False, expires_at=expires_at, **how))

    # -- for the drives

    def dispatch(self, output: RunOutput) -> None:
        """Hand an output to every listener; one that raises does not keep it from the others."""
        for listener in self._listeners:
            try:
                listener(output)
            except Exception:
                self.metrics.listener_failed()
                self._log.failure("a listener failed on run {run}", run=output.run.run_id)

    def ended(self, run: Run, outcome: RunOutcome, messages: tuple[Message, ...]) -> None:
        """The end of a run was announced: settle what hangs on it, and let go of it."""
        self.metrics.run_ended(outcome.state.value)
        self.window.settle(run.run_id, outcome, self.clock.seconds())
        self.leave(run)
        self.announce(self.sessions.ended, run, outcome, messages)
        self.tell(run.waiters, outcome)
        self.go_on(run.session_key)

    # -- inside

    def take_in(self, drive: Drive) -> Drive:
        """Know a run that is in its lane."""
        run = drive.run
        run.waiters = self._awaited.pop(run.run_id, [])
        self._drives[run.run_id] = drive
        doomed = self.coming.doomed(run.run_id)
        if doomed is not None:
            drive.abort(doomed)
        self.metrics.runs_active(len(self._drives))
        return drive

    def leave(self, run: Run) -> None:
        """Let go of a run."""
        del self._drives[run.run_id]
        self.metrics.runs_active(len(self._drives))
        self.lanes.leave(run.session_key, run.run_id)

    def go_on(self, session_key: str) -> None:
        """Let the first run of a session go, if it waits for nothing but its turn."""
        first = self.lanes.runs(session_key)[:1]
        if first and self.holds.reached(first[0]):
            return
        drive = self._drives[first[0]] if first else None
        # One that the store has as running was promised to go at once.
        if drive is not None and drive.waiting and (drive.noted or not self._stopping):
            drive.begin(self._agents.get(drive.run.request.agent_id))

    def _answered(self, started: Started | None, session_key: str) -> None:
        self.go_on(session_key)
        if started is not None and started.fresh:
            self._queueing.arrived(started.run_id)

    def companions(self, drive: Drive) -> list[Drive]:
        """Return those whose messages are answered together with the first of a lane."""
        return self._queueing.companions(drive)

    def tell(self, waiters: Sequence[Waiter], outcome: RunOutcome | GatewayError) -> None:
        """Tell those who wait for a run. They are Deferreds: they raise nothing, and leave the list."""
        for waiter in tuple(waiters):
            waiter(outcome)

    def tell_awaited(self, run_id: str, outcome: RunOutcome) -> None:
        """Tell those who wait for a run that never came to be."""
        self.tell(self._awaited.get(run_id, ()), outcome)

    def announce(self, announce: Callable[..., None], *args: Any) -> None:
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
