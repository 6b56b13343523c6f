"""The note in the store that a run starts: after a crash nothing is run twice.

What the store calls accepted has not been started. While the store does not take the note the run waits, as
it was accepted and has to be kept; an abort or its time to live ends that.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.app.agents import Agent
from gateway.app.deferreds import Link
from gateway.app.ends import Ends
from gateway.app.question import Question
from gateway.core.run import EXPIRED, EXPIRED_TEXT, INTERRUPTED, Run
from gateway.errors import VersionConflict
from gateway.interfaces import IClock, IStore
from gateway.model import RunRecord, RunRequest, RunState, Session, encode_request

NOTE_PAUSE_S = 1.0
"""When the store is asked again to note that a run starts."""

NOT_OURS = "the run was ended or taken by another process"

# Of the module, not of the class: a Logger of the class would put each run into its log events.
_log = Logger()


class Host(Protocol):
    """What a note needs of the runs."""

    clock: IClock
    store: IStore
    ends: Ends

    def go_on(self, session_key: str) -> None:
        """Let the first run of a session go."""


class Noted(Protocol):
    """The run that is noted. No reference to it is kept but while the store is asked."""

    session: Session | None
    """The session as it was stored with the note."""

    def launch(self, agent: Agent | None) -> None:
        """The store has the note: the run may start."""

    def wait_again(self) -> None:
        """The store has not taken the note: the run waits as before."""

    def finish(self, state: RunState, **how: Any) -> None:
        """It is not to be run."""


class Noting:
    """Notes that one run starts."""

    def __init__(
        self,
        run: Run,
        host: Host,
        question: Question,
        *,
        stored_epoch: str,
        rerun: bool,
        expires_at: float,
    ) -> None:
        """Make the note.

        :param stored_epoch: what the store has as the run's epoch.
        :param rerun: whether the run had started before, and is not to be run a third time.
        :param expires_at: until when it may start, on the clock that never goes back.
        """
        self.stored_epoch = stored_epoch
        self._run = run
        self._host = host
        self._question = question
        self._rerun = rerun
        self._expires_at = expires_at
        self._waits_for_store = False
        self._link: Link | None = None
        self._retry: IDelayedCall | None = None

    def ask(self, agent: Agent | None, request: RunRequest, noted: Noted) -> None:
        """Have the note stored, behind the ends of the session that are still kept.

        :param request: what is run: the run's own request, or one with what was collected.
        """
        self._stop_retry()
        kept = self._host.ends.before(self._run.session_key)
        if kept is None:
            self._ask(agent, request, noted)
        else:
            link = self._link = Link(lambda _: self._ask(agent, request, noted))
            kept.addCallback(link)

    def stop(self) -> None:
        """The run is over: whatever the store says, nobody waits for it."""
        self._stop_retry()
        if self._link is not None:
            self._link.cut()
            self._link = None

    def _ask(self, agent: Agent | None, request: RunRequest, noted: Noted) -> None:
        run, host = self._run, self._host
        if self._expire(noted):
            return
        epochs = (self.stored_epoch, run.epoch)
        values: dict[str, Any] = {
            "epoch": run.epoch,
            "state": RunState.RUNNING,
            "started_at_ms": host.clock.now_ms(),
        }
        if agent is None or not agent.reruns or self._rerun:
            values["request_json"] = None  # this was the last time that it is run
        elif request is not run.request:
            values["request_json"] = encode_request(request)

        def change(current: RunRecord | None) -> RunRecord | None:
            if current is None or current.epoch not in epochs:
                return None
            return msgspec.structs.replace(current, **values)

        link = self._link = Link(lambda result: self._answered(result, agent, noted))
        asked = self._question.look_up()  # of a run that is aborted meanwhile the note is refused
        asked.addCallback(lambda _: host.store.start_run(run.run_id, change)).addBoth(link)

    def _answered(
        self,
        result: tuple[RunRecord | None, Session | None] | Failure,
        agent: Agent | None,
        noted: Noted,
    ) -> None:
        """The store has noted that the run starts, or has not."""
        self._link = None
        run = self._run
        record, session = (None, None) if isinstance(result, Failure) else result
        if isinstance(result, Failure) and not result.check(VersionConflict):
            if not self._waits_for_store:
                self._waits_for_store = True
                why = result.getErrorMessage()
                _log.warn("run {run} waits for the store: {error}", run=run.run_id, error=why)
            # Until then it waits as before: a stop leaves it to the next start.
            noted.wait_again()
            host = self._host
            self._retry = host.clock.callLater(NOTE_PAUSE_S, host.go_on, run.session_key)
        elif record is not None and record.epoch == run.epoch:
            self.stored_epoch, noted.session = run.epoch, session
            if not self._expire(noted):
                noted.launch(agent)
        else:
            # Ended, gone, or taken by somebody else: whatever it is, this is not the one to run it.
            noted.finish(RunState.FAILED, stop_reason=INTERRUPTED, error=NOT_OURS)

    def _expire(self, noted: Noted) -> bool:
        """End the run if its time to start is over."""
        if self._host.clock.seconds() < self._expires_at:
            return False
        noted.finish(RunState.FAILED, stop_reason=EXPIRED, error=EXPIRED_TEXT)
        return True

    def _stop_retry(self) -> None:
        retry, self._retry = self._retry, None
        if retry is not None and retry.active():
            retry.cancel()
