"""Messages given to a run that goes on, one after the other, in the order in which they came.

A message that is to steer is accepted and waits in its lane like any other; only when the agent has taken it
its run is over. So it is never lost: where the agent refuses it, does not answer in time, or the run ends
first, it has a turn of its own. An agent that took it and could not say so any more gets it twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.app.deferreds import Link, let_go
from gateway.core.outcome import STEERED
from gateway.core.provenance import shown
from gateway.core.run import Run
from gateway.model import QueueMode

if TYPE_CHECKING:
    from gateway.app.drive import Drive
    from gateway.app.runs import Runs

STEER_PATIENCE_S = 5.0
"""How long an agent may take to say whether it takes a message."""

# Of the module, not of the class: a Logger of the class would put each run into its log events.
_log = Logger()


class Steering:
    """What is given to one run that goes on."""

    def __init__(self, runs: Runs, run: Run, backend: Any) -> None:
        """Make it; the backend provides :class:`gateway.interfaces.ISteerableBackend`."""
        self._runs = runs
        self._run = run
        self._backend = backend
        self._offered: str | None = None
        """The run whose message the agent is asked about."""
        self._link: Link | None = None
        self._work: Deferred[bool] | None = None
        self._timer: IDelayedCall | None = None

    def offer(self) -> None:
        """Give the next message that waits for it to the agent, unless that is still asked about one."""
        if self._offered is not None or self._run.state.terminal:
            return
        drive = self._next()
        if drive is None:
            return
        request = drive.run.request
        self._offered, drive.steering = request.run_id, self
        link = self._link = Link(lambda result: self._answered(drive, result))
        self._timer = self._runs.clock.callLater(STEER_PATIENCE_S, self._give_up)
        files = request.attachments
        work = maybeDeferred(self._backend.steer, self._run.run_id, shown(request), files)
        if link is self._link:
            self._work = work
        else:
            let_go(work, self._run.run_id)  # the run, or the message, was ended meanwhile
        work.addBoth(link)

    def over(self, run_id: str) -> None:
        """A run that takes part has ended: this one, or that of the message that is offered."""
        if run_id == self._offered:
            self._let_go()
            self.offer()
        else:
            self._let_go()

    def _next(self) -> Drive | None:
        for run_id in self._runs.lanes.runs(self._run.session_key)[1:]:
            drive = self._runs.drive(run_id)
            if drive is None:
                continue  # the place of something else than a run
            if drive.waiting and drive.run.request.queue_mode is QueueMode.STEER:
                return drive
        return None

    def _answered(self, drive: Drive, result: bool | Failure) -> None:
        """The agent has taken a message, or has not: then those behind it wait as well, in their order."""
        self._work = None
        self._let_go()
        if result is True:
            drive.hand_over(self._run.run_id, STEERED)
            self.offer()
        elif isinstance(result, Failure):
            _log.warn(
                "run {run}: its message was not given to the run that goes on: {error}",
                run=drive.run.run_id,
                error=result.getErrorMessage(),
            )

    def _give_up(self) -> None:
        _log.warn(
            "run {run}: its agent does not say whether it takes a message", run=self._run.run_id
        )
        self._let_go()

    def _let_go(self) -> None:
        offered, self._offered = self._offered, None
        timer, link, work = self._timer, self._link, self._work
        self._timer = self._link = self._work = None
        if timer is not None and timer.active():
            timer.cancel()
        if link is not None:
            link.cut()
        if work is not None:
            let_go(work, self._run.run_id)
        drive = None if offered is None else self._runs.drive(offered)
        if drive is not None:
            drive.steering = None
